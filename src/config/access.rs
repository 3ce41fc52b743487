//! The identities and the allowed hosts. Without an identity, the API listens on loopback only, because a client of the
//! API can run commands on the host.

use std::time::Duration;

use zeroize::Zeroizing;

use super::env::{BadConfig, Env, Variable};
use super::listen::{Listen, PublicUrl};
use super::oidc::Oidc;
use crate::core::model::token::TOKEN_PREFIX;

pub(super) const ADMIN_TOKEN: Variable = Variable {
    name: "ADMIN_TOKEN",
    default: "",
    about: "The token of the administrator. With it, every request needs the header Authorization: Bearer <token>. At least 16 visible ASCII characters.",
};
const ALLOW_UNAUTHENTICATED: Variable = Variable {
    name: "ALLOW_UNAUTHENTICATED",
    default: "false",
    about: "true permits an address beyond loopback without ADMIN_TOKEN and OIDC_ISSUER. Every client that reaches the port can then run commands on this machine.",
};
const ALLOWED_HOSTS: Variable = Variable {
    name: "ALLOWED_HOSTS",
    default: "",
    about: "Further Host names for requests without a token, comma-separated.",
};

const USER_TOKEN_MAX_LIFE: Variable = Variable {
    name: "USER_TOKEN_MAX_LIFE",
    default: "90d",
    about: "The longest life of a token that a person makes after a sign-in with OpenID Connect.",
};

pub(super) const VARIABLES: &[&Variable] = &[
    &ADMIN_TOKEN,
    &ALLOW_UNAUTHENTICATED,
    &ALLOWED_HOSTS,
    &USER_TOKEN_MAX_LIFE,
];

#[derive(Clone)]
pub struct Access {
    pub admin_token: Option<Zeroizing<String>>,
    pub oidc: Option<Oidc>,
    /// Names that a `Host` header may have besides loopback, in lower case.
    pub hosts: Vec<String>,
    pub public: Option<PublicUrl>,
    /// The longest life of a token that a person makes after a sign-in.
    pub longest_token_life: Duration,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.admin_token.as_ref().map(|_| "***");
        f.debug_struct("Access")
            .field("admin_token", &token)
            .field("oidc", &self.oidc)
            .field("hosts", &self.hosts)
            .field("longest_token_life", &self.longest_token_life)
            .finish()
    }
}

impl Access {
    /// Returns whether callers must authenticate.
    pub fn is_identity_configured(&self) -> bool {
        self.admin_token.is_some() || self.oidc.is_some()
    }

    pub fn read(env: &Env, listen: &Listen) -> Result<Self, BadConfig> {
        let admin_token = env.text(&ADMIN_TOKEN).map(Zeroizing::new);
        if admin_token
            .as_ref()
            .is_some_and(|token| token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(BadConfig::new(
                ADMIN_TOKEN.name,
                "must be 16 or more visible ASCII characters",
            ));
        }
        let oidc = Oidc::read(env, listen)?;
        if admin_token
            .as_ref()
            .is_some_and(|token| token.starts_with(TOKEN_PREFIX))
        {
            return Err(BadConfig::new(
                ADMIN_TOKEN.name,
                format!(
                    "must not begin with {TOKEN_PREFIX}, because tokens of users begin so; choose another token"
                ),
            ));
        }
        if admin_token.is_none()
            && oidc.is_none()
            && !env.flag(&ALLOW_UNAUTHENTICATED)?
            && !listen.address.is_loopback()
        {
            let why = "must be a loopback address unless ADMIN_TOKEN or OIDC_ISSUER is set (or ALLOW_UNAUTHENTICATED=true), because a client of this API can run commands on the host";
            return Err(BadConfig::new("HOST", why));
        }
        let allowed = env.text(&ALLOWED_HOSTS).unwrap_or_default();
        let mut hosts: Vec<String> = allowed
            .split(',')
            .map(str::trim)
            .filter(|host| !host.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        hosts.extend(listen.public.as_ref().map(|public| public.host.clone()));
        hosts.push(listen.host.to_ascii_lowercase());
        Ok(Self {
            admin_token,
            oidc,
            hosts,
            public: listen.public.clone(),
            longest_token_life: env.duration(
                &USER_TOKEN_MAX_LIFE,
                Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 3600),
            )?,
        })
    }
}
