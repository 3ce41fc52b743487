//! URLs of services on the same machine.

use url::{Host, Url};

/// Returns whether requests to a URL stay on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_addresses_of_this_machine_are_loopback() {
        let is_loopback = |text: &str| is_loopback(&text.parse().expect("a URL"));
        for url in ["http://localhost:1", "http://127.0.0.2/a", "https://[::1]/"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://localhost.example",
            "http://10.0.0.1",
            "http://[::2]",
            "file:///a",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
