//! The rules for credentials and for their values.

use std::collections::HashSet;

use super::credential::{Credential, CredentialLocation, CredentialOwner, PLACEHOLDER};
use super::query::has_parameter;
use super::remote::{Remote, is_header_name, is_reserved_header};
use super::server::{Replicas, ServerConfig, Transport};
use crate::core::failure::Failure;

/// The largest number of credentials of a server.
pub const MAX_CREDENTIALS: usize = 64;
/// The largest length of `as` and `format`, in bytes.
const MAX_TEXT: usize = 1024;
/// The largest length of a description, in characters.
const MAX_DESCRIPTION: usize = 500;
/// The longest value of a variable, in bytes. The system refuses longer ones (execve(2), MAX_ARG_STRLEN).
const MAX_VARIABLE: usize = 96 * 1024;
/// The longest value of a header or of a parameter, in bytes. Servers refuse longer ones.
const MAX_SENT: usize = 16 * 1024;
/// Variables with which a user could start other programs, load other code, or divert requests.
const LOADER_VARIABLES: [&str; 22] = [
    "BROWSER",
    "CLASSPATH",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "HOME",
    "IFS",
    "JAVA_OPTS",
    "KUBECONFIG",
    "PAGER",
    "PATH",
    "PHPRC",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "SHELLOPTS",
    "TMPDIR",
    "VISUAL",
    "SSLKEYLOGFILE",
    "_JAVA_OPTIONS",
];
/// Beginnings of the names of such variables.
const LOADER_PREFIXES: [&str; 26] = [
    "AWS_CONFIG",
    "AWS_SHARED_",
    "BASH",
    "CORECLR_",
    "DOTNET_",
    "DYLD_",
    "GEM_",
    "GIT_",
    "GLIBC_",
    "JAVA_TOOL",
    "JDK_",
    "LD_",
    "LUA_",
    "NODE_",
    "NPM_",
    "OPENSSL_",
    "PERL",
    "PHP_INI_",
    "PIP_",
    "PYTHON",
    "REQUESTS_CA",
    "RUBY",
    "SSL_",
    "UV_",
    "XDG_",
    "CURL_CA",
];
/// Ends of the names of such variables.
const LOADER_SUFFIXES: [&str; 6] = [
    "_ASKPASS", "_EDITOR", "_OPTIONS", "_OPTS", "_PAGER", "_PROXY",
];
/// Ends of the names of keys. A key loads no code, whatever the beginning of its name is.
const KEY_SUFFIXES: [&str; 6] = [
    "_API_KEY",
    "_KEY_ID",
    "_PASSWORD",
    "_PAT",
    "_SECRET",
    "_TOKEN",
];

/// Checks the credentials of a server.
///
/// # Errors
/// The failure names the credential and the rule.
pub fn check_credentials(config: &ServerConfig) -> Result<(), Failure> {
    let credentials = &config.credentials;
    if credentials.is_empty() {
        return Ok(());
    }
    if !config.secret_names.is_empty() {
        return Err(Failure::invalid(
            "credentials and secretNames exclude each other; write each secret name as a credential with \"in\": \"argument\"",
        ));
    }
    if credentials.len() > MAX_CREDENTIALS {
        return Err(Failure::invalid(format!(
            "credentials must have at most {MAX_CREDENTIALS} entries"
        )));
    }
    let mut names = HashSet::new();
    let mut targets = HashSet::new();
    for credential in credentials {
        let refuse = |rule: &str| {
            Err(Failure::invalid(format!(
                "credentials: {}: {rule}",
                credential.name
            )))
        };
        if !names.insert(&credential.name) {
            return refuse("the name stands twice; each secret fills one place");
        }
        if let Err(rule) = check_credential(config, credential) {
            return refuse(&rule);
        }
        if !targets.insert((credential.location, spelling(credential))) {
            return refuse("another credential has the same place; give it another `as`");
        }
    }
    Ok(())
}

/// Checks a value before it is stored.
///
/// # Errors
/// The failure names the rule and never repeats the value.
pub fn check_value(credential: &Credential, value: &str) -> Result<(), Failure> {
    let Some(rule) = broken_rule(credential, value) else {
        return Ok(());
    };
    Err(Failure::invalid(format!(
        "secretValue does not fit {}: {rule}",
        credential.target()
    )))
}

/// Returns the rule that a value breaks, as a sentence part that never repeats the value.
pub fn broken_rule(credential: &Credential, value: &str) -> Option<&'static str> {
    match credential.location {
        location if location.is_of_connection() && value.is_empty() => {
            Some("it must not be empty; delete the secret instead")
        }
        CredentialLocation::Env if value.contains('\0') => Some("a variable cannot contain NUL"),
        CredentialLocation::Env if value.len() > MAX_VARIABLE => {
            Some("a variable has at most 96 KiB")
        }
        location if location.is_sent() && value.len() > MAX_SENT => {
            Some("a header or a parameter has at most 16 KiB")
        }
        CredentialLocation::Header if !is_header_value(credential, value) => {
            Some("a header must be visible ASCII characters, spaces and tabs")
        }
        CredentialLocation::Query if value.chars().any(char::is_control) => {
            Some("a parameter of a URL cannot contain control characters")
        }
        _ => None,
    }
}

fn is_header_value(credential: &Credential, value: &str) -> bool {
    let formatted = credential.formatted(value);
    is_header_text(formatted.as_ref().map_or(value, |text| text.as_str()))
}

/// RFC 9110, section 5.5, without the obsolete bytes above ASCII.
fn is_header_text(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte == b'\t' || (0x20..=0x7e).contains(&byte))
}

/// Header names have no case, all other names do.
fn spelling(credential: &Credential) -> String {
    match credential.location {
        CredentialLocation::Header => credential.target().to_ascii_lowercase(),
        _ => credential.target().to_owned(),
    }
}

fn check_credential(config: &ServerConfig, credential: &Credential) -> Result<(), String> {
    let target = credential.target();
    if target.is_empty() || target.len() > MAX_TEXT || target.chars().any(char::is_control) {
        return Err(format!(
            "`as` must be 1 to {MAX_TEXT} bytes without control characters"
        ));
    }
    check_format(credential)?;
    let description = credential.description.as_deref().unwrap_or_default();
    let is_text = |letter: char| letter == '\n' || !letter.is_control();
    if description.chars().count() > MAX_DESCRIPTION || !description.chars().all(is_text) {
        return Err(format!(
            "`description` must be at most {MAX_DESCRIPTION} characters without control characters"
        ));
    }
    match credential.location {
        CredentialLocation::Argument => Ok(()),
        CredentialLocation::Env => check_variable(config, credential),
        CredentialLocation::Header => check_header(remote(config, credential)?, target),
        CredentialLocation::Query => check_parameter(remote(config, credential)?, target),
    }
}

fn check_format(credential: &Credential) -> Result<(), String> {
    let Some(format) = credential.format.as_deref() else {
        return Ok(());
    };
    let has_one_place = format.matches(PLACEHOLDER).count() == 1;
    if !has_one_place || format.len() > MAX_TEXT || format.chars().any(char::is_control) {
        return Err(format!(
            "`format` must contain {PLACEHOLDER} once, in at most {MAX_TEXT} bytes without control characters"
        ));
    }
    if credential.location == CredentialLocation::Header && !is_header_text(format) {
        return Err(
            "`format` must be visible characters and spaces, because it becomes a header".into(),
        );
    }
    Ok(())
}

fn check_variable(config: &ServerConfig, credential: &Credential) -> Result<(), String> {
    let target = credential.target();
    let Transport::Stdio { env, .. } = &config.transport else {
        return Err(
            "a streamable_http server has no environment; use \"in\": \"header\" or \"query\""
                .into(),
        );
    };
    if config.replicas == Replicas::Each {
        return Err(
            "\"in\": \"env\" needs `replicas` to be one, because each user has one process".into(),
        );
    }
    if !is_variable_name(target) {
        return Err(
            "`as` must be the name of a variable: letters, digits and '_', and no digit first"
                .into(),
        );
    }
    if env.contains_key(target) {
        return Err(format!(
            "`env` has the variable {target} already; remove it there"
        ));
    }
    if credential.owner == CredentialOwner::User && is_loader_variable(target) {
        return Err(format!(
            "a user must not set {target}, because it can start other programs; set it in `env`, or choose another variable"
        ));
    }
    Ok(())
}

fn is_loader_variable(name: &str) -> bool {
    let capital = name.to_ascii_uppercase();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|text| capital.starts_with(text));
    let ends = |ends: &[&str]| ends.iter().any(|text| capital.ends_with(text));
    let is_key = ends(&KEY_SUFFIXES) && !capital.starts_with("LD_");
    LOADER_VARIABLES.contains(&capital.as_str())
        || (!is_key && (begins(&LOADER_PREFIXES) || ends(&LOADER_SUFFIXES)))
}

/// POSIX.1, section 8.1. Shells give other names, such as functions of bash, a meaning of their own.
fn is_variable_name(name: &str) -> bool {
    let starts_well = !name.starts_with(|letter: char| letter.is_ascii_digit());
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    starts_well && !name.is_empty() && name.bytes().all(is_allowed)
}

fn remote<'a>(config: &'a ServerConfig, credential: &Credential) -> Result<&'a Remote, String> {
    config.remote().ok_or_else(|| {
        format!(
            "a stdio server has no {}; use \"in\": \"env\" or \"argument\"",
            match credential.location {
                CredentialLocation::Query => "query",
                _ => "header",
            }
        )
    })
}

fn check_header(remote: &Remote, target: &str) -> Result<(), String> {
    if !is_header_name(target) {
        return Err("`as` must be the name of a header".into());
    }
    if is_reserved_header(target) {
        return Err(format!(
            "the program itself sets the header {target}; choose another one"
        ));
    }
    let is_taken = |name: &String| name.eq_ignore_ascii_case(target);
    if remote.headers.keys().any(is_taken) {
        return Err(format!("`headers` has {target} already; remove it there"));
    }
    if target.eq_ignore_ascii_case("authorization") && remote.user_info.is_some() {
        return Err(
            "`url` has user info, which becomes the same header; remove one of them".into(),
        );
    }
    Ok(())
}

fn check_parameter(remote: &Remote, target: &str) -> Result<(), String> {
    if has_parameter(&remote.url, target) {
        return Err(format!(
            "`url` has the parameter {target} already; remove it there"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
