//! Whose tokens a mount believes: exactly one source of keys, and what it must say of itself.

use std::sync::Arc;

use daypass_contract::{BackendError, Clock};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::issuer::{RemoteKeys, Source};
use super::jws::{Algorithm, KeySet};
use crate::federated::{Upstream, check_base, check_url};

/// What a mount is set to, as it is written, stored and shown. A write replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Config {
    /// The issuer, whose discovery document names its keys (OpenID Connect Discovery 1.0).
    pub(crate) oidc_discovery_url: String,
    /// Certificates in PEM to trust there instead of the system's.
    pub(crate) oidc_discovery_ca_pem: String,
    /// Where the issuer publishes its keys.
    pub(crate) jwks_url: String,
    /// Certificates in PEM to trust there instead of the system's.
    pub(crate) jwks_ca_pem: String,
    /// The issuer's public keys or certificates in PEM.
    pub(crate) jwt_validation_pubkeys: Vec<String>,
    /// What a token's `iss` must be. With `oidc_discovery_url` it is that unless said otherwise.
    pub(crate) bound_issuer: String,
    /// Algorithms to accept; all that are known here where it is empty.
    pub(crate) jwt_supported_algs: Vec<Algorithm>,
    /// The role of a login that names none.
    pub(crate) default_role: String,
}

/// Fields that only the browser flow uses. Clients send them empty.
pub(crate) const BROWSER_ONLY: &[&str] = &[
    "allowed_redirect_uris",
    "callback_mode",
    "max_age",
    "namespace_in_state",
    "oauth2_metadata",
    "oidc_client_id",
    "oidc_client_secret",
    "oidc_disable_confirmation",
    "oidc_response_mode",
    "oidc_response_types",
    "oidc_scopes",
    "provider_config",
    "verbose_oidc_logging",
];

/// What follows from a configuration: who the issuer is, and how its tokens are verified.
pub(crate) struct Verifier {
    /// The configuration itself.
    pub(crate) config: Config,
    /// What `iss` must be, where that is known.
    pub(crate) issuer: Option<String>,
    /// The keys.
    pub(crate) keys: Keys,
}

/// The keys of an issuer.
pub(crate) enum Keys {
    /// Given once and for all.
    Fixed(KeySet),
    /// Published by the issuer.
    Remote(Box<RemoteKeys>),
}

impl Verifier {
    /// Makes ready what `config` says. Nothing is fetched yet.
    ///
    /// # Errors
    /// Which field is wrong.
    pub(crate) fn new(config: Config, clock: Arc<dyn Clock>) -> Result<Self, BackendError> {
        let sources = [
            !config.oidc_discovery_url.is_empty(),
            !config.jwks_url.is_empty(),
            !config.jwt_validation_pubkeys.is_empty(),
        ];
        if sources.into_iter().filter(|given| *given).count() != 1 {
            return Err(BackendError::InvalidRequest(
                "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be \
                 set"
                    .into(),
            ));
        }
        let url = |name, url: Result<Url, &'static str>| {
            url.map_err(|problem| BackendError::field(name, problem))
        };
        let upstream = |name, pem: &str| {
            Upstream::new(pem).map_err(|problem| BackendError::field(name, problem))
        };
        let algorithms = &config.jwt_supported_algs;
        let remote = |source, upstream| {
            let keys = RemoteKeys::new(source, upstream, algorithms.clone(), clock);
            Keys::Remote(Box::new(keys))
        };
        let keys = if !config.oidc_discovery_url.is_empty() {
            url("oidc_discovery_url", check_base(&config.oidc_discovery_url))?;
            let upstream = upstream("oidc_discovery_ca_pem", &config.oidc_discovery_ca_pem)?;
            let source = Source::Discovery(config.oidc_discovery_url.clone());
            remote(source, upstream)
        } else if !config.jwks_url.is_empty() {
            let source = Source::KeySet(url("jwks_url", check_url(&config.jwks_url))?);
            remote(source, upstream("jwks_ca_pem", &config.jwks_ca_pem)?)
        } else {
            let keys = KeySet::from_pem(&config.jwt_validation_pubkeys, algorithms);
            Keys::Fixed(keys.map_err(|at| {
                BackendError::field(
                    "jwt_validation_pubkeys",
                    format!(
                        "number {at} is not a public key or certificate in PEM that verifies by one \
                         of jwt_supported_algs (RSA of 2048 bits or more, P-256, P-384, P-521, \
                         Ed25519)"
                    ),
                )
            })?)
        };
        let issuer = [&config.bound_issuer, &config.oidc_discovery_url]
            .into_iter()
            .find(|issuer| !issuer.is_empty())
            .cloned();
        Ok(Self {
            config,
            issuer,
            keys,
        })
    }
}

/// Refuses what asks for the browser flow.
///
/// # Errors
/// Which field does.
pub(crate) fn refuse_browser_flow(fields: &Map<String, Value>) -> Result<(), BackendError> {
    let asked = |name: &&&str| {
        // True by default in clients that know it, and of no consequence.
        **name != "namespace_in_state"
            && fields.get(**name).is_some_and(|value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Bool(true) | Value::Number(_) => true,
            })
    };
    match BROWSER_ONLY.iter().find(asked) {
        None => Ok(()),
        Some(name) => Err(BackendError::field(
            name,
            "is for the browser flow, which is not here: logins are by machines, which bring a token",
        )),
    }
}

#[cfg(test)]
mod tests {
    use daypass_conformance::{Signer, TestHost};
    use serde_json::json;

    use super::*;

    #[test]
    fn there_is_one_source_of_keys_and_it_can_be_used() {
        let pem = Signer::new("k", "ES256").pem();
        let url = "https://issuer.example";
        let cases = [
            (json!({}), "exactly one of"),
            (
                json!({"jwks_url": url, "oidc_discovery_url": url}),
                "exactly one of",
            ),
            (
                json!({"jwks_url": url, "jwt_validation_pubkeys": [pem]}),
                "exactly one of",
            ),
            (
                json!({"jwks_url": "http://issuer.example"}),
                "\"jwks_url\": must begin with https",
            ),
            (
                json!({"oidc_discovery_url": "x"}),
                "\"oidc_discovery_url\": must be a URL",
            ),
            (
                json!({"oidc_discovery_url": "https://a/?b"}),
                "must not have a query",
            ),
            (
                json!({"jwks_url": url, "jwks_ca_pem": "x"}),
                "\"jwks_ca_pem\": must be",
            ),
            (
                json!({"oidc_discovery_url": url, "oidc_discovery_ca_pem": "x"}),
                "\"oidc_discovery_ca_pem\": must be",
            ),
            (json!({"jwt_validation_pubkeys": [pem, "x"]}), "number 2"),
            (
                json!({"jwt_validation_pubkeys": [pem], "jwt_supported_algs": ["RS256"]}),
                "number 1",
            ),
            (json!({"jwt_validation_pubkeys": [pem]}), "good"),
            (json!({"jwks_url": url}), "good"),
            (json!({"oidc_discovery_url": url}), "good"),
        ];
        for (body, want) in cases {
            let config: Config = serde_json::from_value(body).unwrap();
            let made = Verifier::new(config, TestHost::new().host().clock);
            let said = made.map_or_else(|error| error.to_string(), |_| "good".into());
            assert!(said.contains(want), "{want}: {said}");
        }
        for algorithm in ["HS256", "none", "rs256"] {
            let config = json!({ "jwt_supported_algs": [algorithm] });
            assert!(
                serde_json::from_value::<Config>(config).is_err(),
                "{algorithm}"
            );
        }
    }
}
