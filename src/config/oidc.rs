//! The issuer of OpenID Connect whose JWTs callers send.

use url::Url;

use super::env::{BadConfig, Env, Variable};
use super::listen::{Listen, PublicUrl};
use crate::core::loopback::is_loopback;

pub const OIDC_ISSUER: Variable = Variable {
    name: "OIDC_ISSUER",
    default: "",
    about: "The URL of an OpenID Connect issuer, exactly as the claim iss of its JWTs. With it, requests may send a JWT of this issuer, and every request needs a token or a JWT.",
};
const OIDC_AUDIENCE: Variable = Variable {
    name: "OIDC_AUDIENCE",
    default: "",
    about: "The audiences that a JWT may have, comma-separated; PUBLIC_URL and the URLs of its MCP endpoints if empty.",
};
const OIDC_USER_CLAIM: Variable = Variable {
    name: "OIDC_USER_CLAIM",
    default: "sub",
    about: "The claim of a JWT that names the user.",
};
const OIDC_GROUPS_CLAIM: Variable = Variable {
    name: "OIDC_GROUPS_CLAIM",
    default: "groups",
    about: "The claim of a JWT that lists the groups of the user.",
};
const OIDC_ADMIN_GROUP: Variable = Variable {
    name: "OIDC_ADMIN_GROUP",
    default: "",
    about: "The group whose members have the scope admin.",
};

pub const VARIABLES: &[&Variable] = &[
    &OIDC_ISSUER,
    &OIDC_AUDIENCE,
    &OIDC_USER_CLAIM,
    &OIDC_GROUPS_CLAIM,
    &OIDC_ADMIN_GROUP,
];

/// The issuer and the claims of its JWTs.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// The issuer, exactly as the claim `iss`.
    pub issuer: Url,
    pub issuer_text: String,
    pub audience: Audience,
    pub user_claim: String,
    pub groups_claim: String,
    pub admin_group: Option<String>,
}

/// The audiences that a JWT may have.
#[derive(Debug, Clone)]
pub enum Audience {
    Listed(Vec<String>),
    /// This URL and the URLs of the MCP endpoints under it, because issuers mint the resource that a client asked for.
    Under(String),
}

impl Oidc {
    /// Reads the variables. Returns `None` without an issuer.
    ///
    /// # Errors
    /// Fails if a value cannot be used, or if neither `PUBLIC_URL` nor `OIDC_AUDIENCE` says which JWTs are for this API.
    pub fn read(env: &Env, listen: &Listen) -> Result<Option<Self>, BadConfig> {
        let Some(issuer_text) = env.text(&OIDC_ISSUER) else {
            return Ok(None);
        };
        Ok(Some(Self {
            issuer: parse_issuer(&issuer_text)?,
            issuer_text,
            audience: read_audience(env, listen.public.as_ref())?,
            user_claim: env.parse(&OIDC_USER_CLAIM, "the name of a claim")?,
            groups_claim: env.parse(&OIDC_GROUPS_CLAIM, "the name of a claim")?,
            admin_group: env.text(&OIDC_ADMIN_GROUP),
        }))
    }
}

fn parse_issuer(text: &str) -> Result<Url, BadConfig> {
    let url = Url::parse(text).ok().filter(|url| {
        is_protected(url)
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        BadConfig::new(
            OIDC_ISSUER.name,
            "must be an https URL such as https://login.example.com, without a query; http is for loopback only",
        )
    })
}

fn read_audience(env: &Env, public: Option<&PublicUrl>) -> Result<Audience, BadConfig> {
    let listed: Vec<String> = env
        .text(&OIDC_AUDIENCE)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|audience| !audience.is_empty())
        .map(str::to_owned)
        .collect();
    match public {
        _ if !listed.is_empty() => Ok(Audience::Listed(listed)),
        Some(public) => Ok(Audience::Under(public.url.clone())),
        None => Err(BadConfig::new(
            OIDC_ISSUER.name,
            "needs PUBLIC_URL or OIDC_AUDIENCE, because a JWT for another service must not be accepted",
        )),
    }
}

/// Returns whether the network cannot change a document on its way from a URL: https, or http on this machine.
pub fn is_protected(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Oidc>, BadConfig> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(&Env::from_pairs(pairs)).map(|config| config.access.oidc)
    }

    #[test]
    fn an_issuer_is_an_https_url_or_on_loopback() {
        for issuer in [
            "https://login.example.com",
            "https://login.example.com/realms/a/",
            "http://127.0.0.1:4000",
            "http://[::1]:4000",
            "http://localhost",
        ] {
            let oidc = read(&[("OIDC_ISSUER", issuer), ("OIDC_AUDIENCE", "a")]);
            let oidc = oidc.expect("a configuration").expect("an issuer");
            assert_eq!(oidc.issuer_text, issuer);
        }
        for issuer in [
            "login.example.com",
            "http://login.example.com",
            "https://login.example.com/?tenant=1",
            "https://user:password@login.example.com",
            "file:///etc/passwd",
        ] {
            let error = read(&[("OIDC_ISSUER", issuer), ("OIDC_AUDIENCE", "a")]);
            let error = error.expect_err("refused");
            assert_eq!(error.name, "OIDC_ISSUER", "{issuer}");
            assert!(!error.why.contains("password"), "{error}");
        }
    }

    #[test]
    fn the_audience_is_public_url_unless_it_is_listed() {
        let issuer = ("OIDC_ISSUER", "https://login.example.com");
        let public = ("PUBLIC_URL", "https://mcp.example.com/");
        let audience = |pairs: &[_]| {
            let oidc = read(pairs).expect("a configuration");
            oidc.expect("an issuer").audience
        };
        assert!(
            matches!(audience(&[issuer, public]), Audience::Under(url) if url == "https://mcp.example.com")
        );
        let listed = ("OIDC_AUDIENCE", "a, b");
        assert!(
            matches!(audience(&[issuer, public, listed]), Audience::Listed(names) if names == ["a", "b"])
        );
        let error = read(&[issuer]).expect_err("refused");
        assert_eq!(error.name, "OIDC_ISSUER");
        assert!(error.why.contains("PUBLIC_URL"), "{error}");
    }

    #[test]
    fn an_issuer_allows_an_address_beyond_loopback() {
        let host = ("HOST", "0.0.0.0");
        assert_eq!(read(&[host]).expect_err("refused").name, "HOST");
        let issuer = ("OIDC_ISSUER", "https://login.example.com");
        assert!(read(&[host, issuer, ("OIDC_AUDIENCE", "a")]).is_ok());
    }
}
