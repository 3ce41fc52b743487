//! Decides which network addresses a request of an authorization may reach.
//!
//! A server names its authorization server, and so it chooses where the worker sends requests. A
//! server on the internet must not reach loopback, private or link-local addresses through the
//! worker. Only a server that has such an address itself may name such addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;
use url::{Host, Url};

/// The addresses that requests on behalf of one server may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum AddressPolicy {
    /// Addresses of the internet only.
    #[default]
    PublicOnly,
    /// All addresses, because the server itself has a loopback, private or link-local address.
    AnyAddress,
}

/// A host that the policy forbids.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host} has a loopback, private or link-local address, which only a server with such an address may name"
)]
pub struct ForbiddenAddress {
    host: String,
}

/// Why a name has no usable address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error(transparent)]
    Forbidden(#[from] ForbiddenAddress),
    #[error("the name cannot be resolved")]
    Lookup(#[source] io::Error),
}

impl AddressPolicy {
    /// Returns the policy for the requests that the server at `server` causes. A server whose name
    /// cannot be resolved counts as a server of the internet.
    pub(super) async fn for_server(server: &Url) -> Self {
        let has_private_address = match server.host() {
            Some(Host::Ipv4(address)) => !is_public(address.into()),
            Some(Host::Ipv6(address)) => !is_public(address.into()),
            Some(Host::Domain(name)) => lookup(name)
                .await
                .is_ok_and(|found| found.iter().any(|address| !is_public(address.ip()))),
            None => false,
        };
        if has_private_address {
            Self::AnyAddress
        } else {
            Self::PublicOnly
        }
    }

    /// Checks a host that is written as an address. [`CheckedResolver`] checks names when they are
    /// resolved.
    ///
    /// # Errors
    /// Fails if the policy forbids the address.
    pub(super) fn check_literal(self, url: &Url) -> Result<(), ForbiddenAddress> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::from(address),
            Some(Host::Ipv6(address)) => IpAddr::from(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.permits(address) {
            Ok(())
        } else {
            Err(ForbiddenAddress {
                host: address.to_string(),
            })
        }
    }

    /// Checks a name that a proxy resolves. The proxy may know names that this machine does not
    /// know, and then the rules of the proxy decide.
    ///
    /// # Errors
    /// Fails if this machine knows a forbidden address of the name.
    pub(super) async fn check_proxied_name(self, url: &Url) -> Result<(), ForbiddenAddress> {
        let Some(Host::Domain(name)) = url.host() else {
            return Ok(());
        };
        match lookup(name).await {
            Ok(found) if !found.iter().all(|address| self.permits(address.ip())) => {
                Err(ForbiddenAddress {
                    host: name.to_owned(),
                })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn permits(self, address: IpAddr) -> bool {
        self == Self::AnyAddress || is_public(address)
    }
}

/// Resolves names to the addresses that the policy permits. The connection goes to one of these
/// addresses, so a name that changes its address afterwards gains nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckedResolver(pub AddressPolicy);

impl Service<Name> for CheckedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        resolve(self.0, name).boxed()
    }
}

async fn resolve(
    policy: AddressPolicy,
    name: Name,
) -> Result<std::vec::IntoIter<SocketAddr>, ResolveError> {
    let found = lookup(name.as_str()).await.map_err(ResolveError::Lookup)?;
    let permitted: Vec<_> = found
        .into_iter()
        .filter(|address| policy.permits(address.ip()))
        .collect();
    if permitted.is_empty() {
        let host = name.as_str().to_owned();
        return Err(ForbiddenAddress { host }.into());
    }
    Ok(permitted.into_iter())
}

async fn lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((name, 0)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    Ok(found)
}

/// Returns whether an address belongs to the internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(embedded) => is_public_v4(embedded),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second); // RFC 6598
    let is_protocol = first == 192 && second == 0 && third == 0; // RFC 6890
    let is_benchmark = first == 198 && (second == 18 || second == 19); // RFC 2544
    let is_this_network = first == 0;
    let is_reserved_or_multicast = first >= 224;
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || is_shared
        || is_protocol
        || is_benchmark
        || is_this_network
        || is_reserved_or_multicast)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Only 2000::/3 is given out; loopback, unique local, link-local and multicast lie outside.
    let is_global_unicast = address.segments()[0] & 0xe000 == 0x2000;
    let is_documentation = address.segments()[..2] == [0x2001, 0x0db8];
    is_global_unicast && !is_documentation
}

/// Returns the IPv4 address that a mapped, compatible, translated (RFC 6052) or 6to4 address leads to.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let from = |high: u16, low: u16| {
        let [first, second] = high.to_be_bytes();
        let [third, fourth] = low.to_be_bytes();
        Ipv4Addr::new(first, second, third, fourth)
    };
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => address.to_ipv4(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn addresses_inside_a_network_are_not_public() {
        for inside in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(inside.parse().expect("an address")), "{inside}");
        }
        for outside in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(outside.parse().expect("an address")), "{outside}");
        }
    }

    #[tokio::test]
    async fn only_a_server_with_a_private_address_may_name_private_addresses() {
        for inside in [
            "http://127.0.0.1:1/mcp",
            "http://localhost/mcp",
            "https://[::1]/mcp",
        ] {
            let policy = AddressPolicy::for_server(&url(inside)).await;
            assert_eq!(policy, AddressPolicy::AnyAddress, "{inside}");
        }
        for outside in ["https://8.8.8.8/mcp", "https://name.invalid/mcp"] {
            let policy = AddressPolicy::for_server(&url(outside)).await;
            assert_eq!(policy, AddressPolicy::PublicOnly, "{outside}");
            for forbidden in [
                "http://127.0.0.1:9/",
                "https://[fe80::1]/",
                "http://0x7f.1/",
            ] {
                assert!(
                    policy.check_literal(&url(forbidden)).is_err(),
                    "{forbidden}"
                );
            }
            assert!(policy.check_literal(&url("https://8.8.4.4/")).is_ok());
            assert!(
                policy
                    .check_proxied_name(&url("http://localhost/"))
                    .await
                    .is_err()
            );
        }
    }

    #[tokio::test]
    async fn a_name_is_checked_when_it_is_resolved() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let refused = CheckedResolver(AddressPolicy::PublicOnly).call(name("localhost"));
        assert!(matches!(refused.await, Err(ResolveError::Forbidden(_))));
        let found = CheckedResolver(AddressPolicy::AnyAddress).call(name("localhost"));
        assert!(
            found
                .await
                .expect("an address")
                .all(|found| found.ip().is_loopback())
        );
    }
}
