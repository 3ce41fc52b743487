//! TLS for HTTP clients: the roots of the system and those of Mozilla, and one provider for all.
//!
//! A container may have no roots of its own, a company may have a root that only its machines know
//! (`SSL_CERT_FILE` names it): both are trusted, as the clients of NATS and MongoDB do between them.

use std::sync::{Arc, LazyLock};

use rustls::{ClientConfig, RootCertStore};

static CONFIG: LazyLock<ClientConfig> = LazyLock::new(|| {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "certificates of the system could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The provider knows every version that is the default: nothing at run time can change that.
    versions.expect("ring knows TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth()
});

/// The beginning of every HTTP client.
pub fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_backend_preconfigured(CONFIG.clone())
}
