//! The names under which the endpoint of all servers shows their tools.
//!
//! A name depends on its server and its tool alone, so a server never changes the names of another server. The program
//! looks names up in a table and never splits them.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// The text between the name of the server and the name of the tool.
const SEPARATOR: &str = "__";
/// The hex digits of the hash in a name. Names that still meet get twice as many.
const DIGITS: usize = 6;

/// Returns the exposed names of all tools, given as pairs of server and tool. Tools whose names meet get longer hashes.
pub fn exposed_names<'a>(
    tools: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    limit: usize,
) -> Vec<String> {
    let names: Vec<_> = tools
        .clone()
        .map(|(server, tool)| exposed_name(server, tool, limit))
        .collect();
    let mut uses: HashMap<&str, usize> = HashMap::with_capacity(names.len());
    for name in &names {
        *uses.entry(name).or_default() += 1;
    }
    names
        .iter()
        .zip(tools)
        .map(|(name, (server, tool))| {
            if uses.get(name.as_str()) == Some(&1) {
                name.clone()
            } else {
                long_exposed_name(server, tool, limit)
            }
        })
        .collect()
}

/// Returns the name that a plain exposed name of this server stands for. `None`: the name belongs to another server, or it has
/// a hash, and only a list of names shows what it stands for.
pub fn plain_name<'a>(server: &str, exposed: &'a str, limit: usize) -> Option<&'a str> {
    let name = exposed.strip_prefix(server)?.strip_prefix(SEPARATOR)?;
    (exposed_name(server, name, limit) == exposed).then_some(name)
}

/// Returns the exposed name of a tool: `<server>__<tool>`, at most `limit` characters of `[A-Za-z0-9_-]`.
///
/// A name that cannot be written so is cut and ends in a hash of server and tool.
fn exposed_name(server: &str, tool: &str, limit: usize) -> String {
    let plain = format!("{server}{SEPARATOR}{tool}");
    let needs_hash = plain.len() > limit
        || !plain.bytes().all(is_name_byte)
        || server.contains(SEPARATOR)
        || server.ends_with('_')
        || ends_like_a_hash(tool);
    if needs_hash {
        hashed_name(&plain, server, tool, limit, DIGITS)
    } else {
        plain
    }
}

/// Returns the exposed name of a tool whose [`exposed_name`] meets the name of another tool.
fn long_exposed_name(server: &str, tool: &str, limit: usize) -> String {
    let plain = format!("{server}{SEPARATOR}{tool}");
    hashed_name(&plain, server, tool, limit, 2 * DIGITS)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Returns whether a tool's name ends as a hashed name does, so that no tool takes the name of another tool.
fn ends_like_a_hash(tool: &str) -> bool {
    [DIGITS, 2 * DIGITS].into_iter().any(|digits| {
        tool.len()
            .checked_sub(digits + 1)
            .and_then(|start| tool.as_bytes().get(start..))
            .is_some_and(|end| {
                end[0] == b'_' && end[1..].iter().all(|byte| byte.is_ascii_hexdigit())
            })
    })
}

fn hashed_name(plain: &str, server: &str, tool: &str, limit: usize, digits: usize) -> String {
    let hash = Sha256::new()
        .chain_update(server)
        .chain_update([0])
        .chain_update(tool)
        .finalize();
    let mut name: String = plain
        .chars()
        .map(|character| {
            let is_allowed = u8::try_from(character).is_ok_and(is_name_byte);
            if is_allowed { character } else { '_' }
        })
        .take(limit - digits - 1)
        .collect();
    name.push('_');
    name.push_str(&hex::encode(&hash[..digits / 2]));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 56;

    #[test]
    fn a_plain_name_leads_back_to_its_tool() {
        assert_eq!(plain_name("github", "github__a__b", LIMIT), Some("a__b"));
        for (server, exposed) in [
            ("git", "github__a"),
            ("a__b", "a__b__c"),
            ("a", "a__b_123abc"),
        ] {
            assert_eq!(plain_name(server, exposed, LIMIT), None, "{exposed}");
        }
    }

    #[test]
    fn a_usual_name_is_the_server_and_the_tool() {
        assert_eq!(
            exposed_name("github", "search_code", LIMIT),
            "github__search_code"
        );
        assert_eq!(exposed_name("a-b", "c__d", LIMIT), "a-b__c__d");
    }

    #[test]
    fn a_name_that_cannot_be_written_plainly_ends_in_a_hash() {
        for (server, tool) in [
            ("a.b", "c"),
            ("a", "c d"),
            ("a", "zürich"),
            ("a__b", "c"),
            ("a_", "c"),
            ("a", "c_0a1b2c"),
            ("a", "c_0A1B2C"),
            ("a", "c_0a1b2c3d4e5f"),
            ("a", &"x".repeat(100)),
        ] {
            let name = exposed_name(server, tool, LIMIT);
            assert_ne!(name, format!("{server}__{tool}"));
            assert!(name.len() <= LIMIT, "{name}");
            assert!(name.bytes().all(is_name_byte), "{name}");
            assert!(ends_like_a_hash(&name), "{name}");
        }
        assert_eq!(exposed_name("a", "z\u{fc}", LIMIT).find("a__z__"), Some(0));
    }

    #[test]
    fn a_longer_hash_begins_with_the_shorter_hash() {
        let short = exposed_name("a.b", "c", LIMIT);
        let long = long_exposed_name("a.b", "c", LIMIT);
        assert!(long.starts_with(&short) && long.len() == short.len() + DIGITS);
        assert!(long_exposed_name("a", &"x".repeat(100), LIMIT).len() <= LIMIT);
    }

    #[test]
    fn the_names_of_many_servers_are_unique_and_short() {
        let mut tools = Vec::new();
        for server in 0..1000 {
            let server = match server % 4 {
                0 => format!("server.{server}"),
                1 => format!("a-server-with-a-name-of-sixty-four-characters-and-number-{server}"),
                _ => format!("server{server}"),
            };
            for tool in 0..100 {
                tools.push((server.clone(), format!("tool {tool}")));
            }
        }
        let pairs = tools
            .iter()
            .map(|(server, tool)| (server.as_str(), tool.as_str()));
        let names = exposed_names(pairs, LIMIT);
        for name in &names {
            assert!(
                name.len() <= LIMIT && name.bytes().all(is_name_byte),
                "{name}"
            );
        }
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), tools.len());
    }

    #[test]
    fn names_of_different_tools_differ() {
        let mut names = std::collections::HashSet::new();
        for server in ["a", "a_", "a__b", "a.b", "a-b", "A"] {
            for tool in ["b__c", "c", "_c", "b_c", "b.c", "c_000000", "c_aaaaaa"] {
                assert!(
                    names.insert(exposed_name(server, tool, LIMIT)),
                    "{server} {tool}"
                );
            }
        }
    }
}
