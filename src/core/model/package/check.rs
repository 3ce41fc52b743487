//! What may be said of a package to npm and pip. Nothing of it is an option, a path or a URL.

use crate::core::failure::Failure;
use crate::core::names::PackageName;

/// The name as PyPI normalises it (PEP 503): the same package has one name.
pub fn python_name(name: &PackageName) -> Result<PackageName, Failure> {
    let text = name.as_str();
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !inside || !ends(text.chars().next()) || !ends(text.chars().last()) {
        return Err(Failure::invalid(
            "name must be a package of PyPI, such as mcp-server-time",
        ));
    }
    let words: Vec<_> = text
        .split(['.', '_', '-'])
        .filter(|word| !word.is_empty())
        .collect();
    let name = words.join("-").to_ascii_lowercase().parse();
    name.map_err(|error| Failure::invalid(format!("name {error}")))
}

/// A module that `python -m` can run.
pub fn check_module(module: &str) -> Result<(), Failure> {
    let identifier = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !part.starts_with(|c: char| c.is_ascii_digit())
    };
    if module.len() <= 256
        && module
            .split('.')
            .all(|part| !part.is_empty() && identifier(part))
    {
        return Ok(());
    }
    Err(Failure::invalid(
        "pythonModule must be the name of a module, such as mcp_server_time",
    ))
}

/// A requirement with its extras, versions and markers (PEP 508), and no URL.
pub fn check_requirement(requirement: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " ._-[],<>=!~*+;'\"()".contains(c);
    let begins = requirement.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && requirement.len() <= 512 && requirement.chars().all(allowed) {
        return Ok(());
    }
    Err(Failure::invalid(
        "pipDependencies must be requirements such as mcp<2 or httpx[http2]>=0.27, without URLs and options",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_names_are_normalised() {
        let name =
            |text: &str| python_name(&text.parse().expect("a name")).map(|name| name.to_string());
        assert_eq!(
            name("Mcp_Server.Time").ok().as_deref(),
            Some("mcp-server-time")
        );
        assert_eq!(name("a--b").ok().as_deref(), Some("a-b"));
        for bad in ["@scope/name", "a-", "a~b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_paths_and_urls_are_no_requirements() {
        for good in [
            "mcp<2",
            "httpx[http2] >= 0.27, < 1",
            "tomli; python_version < \"3.11\"",
        ] {
            assert!(check_requirement(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-r x",
            "--index-url=x",
            "./x",
            "/etc/x",
            "mcp @ https://h/x",
            "a\nb",
            "git+https://h",
            "${X}",
            "a#b",
        ] {
            assert!(check_requirement(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "-c", "a b", "a..b", "1a", "a-b", "a;import os"] {
            assert!(check_module(bad).is_err(), "{bad:?}");
        }
    }
}
