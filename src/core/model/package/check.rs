//! The rules for texts that npm and pip get. No such text is an option, a path or a URL.

use crate::core::failure::Failure;
use crate::core::names::PackageName;

/// Returns the normalized name of a Python package (PEP 503), so that one package has one name.
///
/// # Errors
/// Fails if PyPI cannot have a package of this name.
pub fn python_name(name: &PackageName) -> Result<PackageName, Failure> {
    let text = name.as_str();
    let is_alphanumeric = |character: char| character.is_ascii_alphanumeric();
    let all_allowed = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !all_allowed || !text.starts_with(is_alphanumeric) || !text.ends_with(is_alphanumeric) {
        return Err(Failure::invalid(
            "name must be a package of PyPI, such as mcp-server-time",
        ));
    }
    let parts: Vec<_> = text
        .split(['.', '_', '-'])
        .filter(|part| !part.is_empty())
        .collect();
    let normalized = parts.join("-").to_ascii_lowercase();
    normalized
        .parse()
        .map_err(|error| Failure::invalid(format!("name {error}")))
}

/// Checks the name of a module that `python -m` runs.
///
/// # Errors
/// Fails if the text is no module name.
pub fn check_module(module: &str) -> Result<(), Failure> {
    let is_identifier = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !part.starts_with(|character: char| character.is_ascii_digit())
    };
    if module.len() <= 256 && module.split('.').all(is_identifier) {
        return Ok(());
    }
    Err(Failure::invalid(
        "pythonModule must be the name of a module, such as mcp_server_time",
    ))
}

/// Checks a requirement with its extras, versions and markers (PEP 508).
///
/// # Errors
/// Fails if the text is an option, a path or a URL.
pub fn check_requirement(requirement: &str) -> Result<(), Failure> {
    let is_allowed = |character: char| {
        character.is_ascii_alphanumeric() || " ._-[],<>=!~*+;'\"()".contains(character)
    };
    let starts_with_name =
        requirement.starts_with(|character: char| character.is_ascii_alphanumeric());
    if starts_with_name && requirement.len() <= 512 && requirement.chars().all(is_allowed) {
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
    fn a_python_name_is_normalized() {
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
    fn an_option_a_path_or_a_url_is_no_requirement() {
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
