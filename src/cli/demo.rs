//! `mcp-api demo`.

use super::Ended;

pub fn run() -> Ended {
    Err("not yet".into())
}
