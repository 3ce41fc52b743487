//! The issuer of OpenID Connect whose JWTs callers send.

use url::Url;
use zeroize::Zeroizing;

use super::env::{BadConfig, Env, Variable};
use super::listen::{Listen, PublicUrl};
use crate::core::loopback::is_loopback;

pub(super) const OIDC_ISSUER: Variable = Variable {
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
const OIDC_CLIENT_ID: Variable = Variable {
    name: "OIDC_CLIENT_ID",
    default: "",
    about: "The client of the sign-in page at OIDC_ISSUER. With it, people sign in at the issuer. Its redirect URI is PUBLIC_URL/signin/callback.",
};
const OIDC_CLIENT_SECRET: Variable = Variable {
    name: "OIDC_CLIENT_SECRET",
    default: "",
    about: "The secret of OIDC_CLIENT_ID. A public client has none and uses PKCE alone.",
};

/// The path to which the issuer leads a browser back.
pub const SIGNIN_CALLBACK_PATH: &str = "/signin/callback";

pub(super) const VARIABLES: &[&Variable] = &[
    &OIDC_ISSUER,
    &OIDC_AUDIENCE,
    &OIDC_USER_CLAIM,
    &OIDC_GROUPS_CLAIM,
    &OIDC_ADMIN_GROUP,
    &OIDC_CLIENT_ID,
    &OIDC_CLIENT_SECRET,
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
    /// The client of the sign-in page.
    pub client: Option<OidcClient>,
}

/// The client of the sign-in page at the issuer.
#[derive(Clone)]
pub struct OidcClient {
    pub id: String,
    /// A public client has no secret.
    pub secret: Option<Zeroizing<String>>,
    /// The URL to which the issuer leads a browser back.
    pub redirect_uri: String,
}

impl std::fmt::Debug for OidcClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = self.secret.as_ref().map(|_| "***");
        f.debug_struct("OidcClient")
            .field("id", &self.id)
            .field("secret", &secret)
            .field("redirect_uri", &self.redirect_uri)
            .finish()
    }
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
    /// Fails if a value cannot be used, if neither `PUBLIC_URL` nor `OIDC_AUDIENCE` says which JWTs are for this API, or
    /// if a variable of the sign-in page lacks a variable that it needs.
    pub fn read(env: &Env, listen: &Listen) -> Result<Option<Self>, BadConfig> {
        let client = read_client(env, listen.public.as_ref())?;
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
            client,
        }))
    }
}

fn read_client(env: &Env, public: Option<&PublicUrl>) -> Result<Option<OidcClient>, BadConfig> {
    let secret = env.text(&OIDC_CLIENT_SECRET).map(Zeroizing::new);
    let Some(id) = env.text(&OIDC_CLIENT_ID) else {
        return match secret {
            None => Ok(None),
            Some(_) => Err(BadConfig::new(
                OIDC_CLIENT_SECRET.name,
                "needs OIDC_CLIENT_ID, because it is the secret of this client",
            )),
        };
    };
    if !env.has(OIDC_ISSUER.name) {
        return Err(BadConfig::new(
            OIDC_CLIENT_ID.name,
            "needs OIDC_ISSUER, because people sign in at this issuer",
        ));
    }
    let public = public.ok_or_else(|| {
        BadConfig::new(
            OIDC_CLIENT_ID.name,
            "needs PUBLIC_URL, because the issuer leads browsers back to PUBLIC_URL/signin/callback",
        )
    })?;
    Ok(Some(OidcClient {
        id,
        secret,
        redirect_uri: format!("{}{SIGNIN_CALLBACK_PATH}", public.url),
    }))
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

    #[test]
    fn a_client_needs_an_issuer_and_public_url() {
        let issuer = ("OIDC_ISSUER", "https://login.example.com");
        let public = ("PUBLIC_URL", "https://mcp.example.com/api/");
        let audience = ("OIDC_AUDIENCE", "a");
        let id = ("OIDC_CLIENT_ID", "pages");
        let secret = ("OIDC_CLIENT_SECRET", "a-secret");
        let client = |pairs: &[_]| {
            let oidc = read(pairs).expect("a configuration");
            oidc.expect("an issuer").client
        };
        assert!(client(&[issuer, public]).is_none());
        let public_client = client(&[issuer, public, id]).expect("a client");
        assert_eq!(
            public_client.redirect_uri,
            "https://mcp.example.com/api/signin/callback"
        );
        assert!(public_client.secret.is_none());
        let confidential = client(&[issuer, public, id, secret]).expect("a client");
        assert_eq!(
            confidential.secret.as_deref().map(String::as_str),
            Some("a-secret")
        );
        assert!(!format!("{confidential:?}").contains("a-secret"));
        for (pairs, name, needed) in [
            (vec![issuer, audience, id], "OIDC_CLIENT_ID", "PUBLIC_URL"),
            (vec![public, id], "OIDC_CLIENT_ID", "OIDC_ISSUER"),
            (
                vec![issuer, public, secret],
                "OIDC_CLIENT_SECRET",
                "OIDC_CLIENT_ID",
            ),
        ] {
            let error = read(&pairs).expect_err("refused");
            assert_eq!(error.name, name);
            assert!(error.why.contains(needed), "{error}");
            assert!(!error.why.contains("a-secret"), "{error}");
        }
    }
}
