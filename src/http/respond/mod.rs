//! Responses: JSON for programs, HTML pages and cookies for browsers.

pub(super) mod cookie;
pub(super) mod endless;
pub(super) mod html;
pub(super) mod json;
pub(super) mod notice;
