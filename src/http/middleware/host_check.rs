//!

use axum::extract::Request;
use axum::http::Uri;
use axum::http::header::{HOST, ORIGIN};

use crate::config::Access;
use crate::core::failure::{Code, Failure};

/// Against DNS rebinding: a page in somebody's browser must not reach this API under a name of its own.
pub fn check_host_and_origin(request: &Request, access: &Access) -> Result<(), Failure> {
    let headers = request.headers();
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or(request.uri().host())
        .unwrap_or_default();
    if !is_allowed_host(host_name(host), access) {
        let refusal = format!(
            "The Host header names {}, which is not this API's; add that name to ALLOWED_HOSTS to allow it",
            printable(host)
        );
        return Err(Failure::new(Code::Forbidden, refusal));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let site = origin.parse::<Uri>().ok();
    if site
        .as_ref()
        .and_then(Uri::host)
        .is_some_and(|host| is_allowed_host(host, access))
    {
        return Ok(());
    }
    let refusal = format!(
        "The Origin {} is not this API's; add its host to ALLOWED_HOSTS to allow it, or set ADMIN_TOKEN",
        printable(origin)
    );
    Err(Failure::new(Code::Forbidden, refusal))
}

pub fn is_allowed_host(host: &str, access: &Access) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    loopback || access.hosts.contains(&host)
}

/// `name` of `name:port`, with the brackets of an IPv6 address.
pub fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_lose_their_port() {
        for (host, name) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn loopback_in_every_spelling_is_ours() {
        let access = Access {
            admin_token: None,
            hosts: vec!["mcp.example.com".into()],
            public: None,
        };
        for ours in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.1.2.3",
            "[::1]",
            "mcp.example.com",
        ] {
            assert!(is_allowed_host(ours, &access), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
        ] {
            assert!(!is_allowed_host(foreign, &access), "{foreign}");
        }
    }
}
