//! Unit tests of the fold of descriptions.

use super::tests::{catalog, described, registered, server};
use super::*;

#[test]
fn a_description_changes_neither_the_tool_list_nor_the_connection() {
    let catalog = catalog([registered(), described()]);
    let description = server(&catalog)
        .description
        .as_deref()
        .expect("a description");
    assert_eq!(description.digest, "d1");
    assert_eq!(description.instructions.as_deref(), Some("Read first"));
    assert_eq!(description.protocol_version.as_deref(), Some("2025-11-25"));
    let capabilities = description.capabilities.as_ref().expect("an object");
    assert_eq!(capabilities.raw().get(), "{ \"tools\" : {} }");
    assert_eq!(server(&catalog).fencing_token, 3);
    assert_eq!(catalog.tools_changed, Position(1));
    assert_eq!(catalog.servers_changed, Position(1));
}
