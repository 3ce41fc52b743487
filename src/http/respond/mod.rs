//! Responses: JSON for programs, HTML pages and cookies for browsers.

pub mod cookie;
pub mod html;
pub mod json;
