//! Which cluster a mount asks, and as whom.

use std::path::PathBuf;

use daypass_contract::{BackendError, Secret, reveal};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::federated::{Upstream, check_base};

/// What a mount is set to, as it is stored. A write replaces all of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Config {
    /// The API server.
    pub(crate) kubernetes_host: String,
    /// Certificates in PEM to trust there.
    pub(crate) kubernetes_ca_cert: String,
    /// What to ask with.
    #[serde(serialize_with = "reveal")]
    pub(crate) token_reviewer_jwt: Secret,
    /// Whether the service account that Daypass itself runs as is left out of it.
    pub(crate) disable_local_ca_jwt: bool,
    /// What a token's `iss` must be, unless that is not checked.
    pub(crate) issuer: String,
    /// Whether `iss` is left to the API server, which checks it anyway.
    pub(crate) disable_iss_validation: bool,
}

/// A request to set it.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ConfigRequest {
    /// The API server, such as `https://10.0.0.1:6443`.
    #[serde(default)]
    kubernetes_host: String,
    /// Certificates in PEM to trust there; those of the pod Daypass runs in where it is left out.
    #[serde(default)]
    kubernetes_ca_cert: String,
    /// A service account's token that may create token reviews. Where it is left out: that of the pod
    /// Daypass runs in, or else the token that logs in.
    token_reviewer_jwt: Option<Secret>,
    /// Does not use the service account of the pod Daypass runs in.
    #[serde(default)]
    disable_local_ca_jwt: bool,
    /// What a token's `iss` must be, where `disable_iss_validation` is false.
    #[serde(default)]
    issuer: String,
    /// Leaves `iss` to the API server, which checks it anyway.
    #[serde(default = "yes")]
    disable_iss_validation: bool,
    /// Not here: the API server verifies tokens. The method jwt verifies them by keys.
    #[serde(default)]
    pem_keys: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What is shown of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConfigView {
    /// The API server.
    kubernetes_host: String,
    /// Certificates to trust there.
    kubernetes_ca_cert: String,
    /// Whether there is a token to ask with.
    token_reviewer_jwt_set: bool,
    /// Whether the pod's service account is left out.
    disable_local_ca_jwt: bool,
    /// What `iss` must be.
    issuer: String,
    /// Whether that is left to the API server.
    disable_iss_validation: bool,
    /// Always empty.
    pem_keys: Vec<String>,
}

impl Config {
    /// What a request asks for, where it can be used.
    ///
    /// # Errors
    /// Which field cannot.
    pub(crate) fn new(request: ConfigRequest) -> Result<Self, BackendError> {
        let ConfigRequest {
            kubernetes_host,
            kubernetes_ca_cert,
            token_reviewer_jwt,
            disable_local_ca_jwt,
            issuer,
            disable_iss_validation,
            pem_keys,
        } = request;
        if kubernetes_host.is_empty() {
            return Err(BackendError::field("kubernetes_host", "no host provided"));
        }
        if !pem_keys.is_empty() {
            return Err(BackendError::field(
                "pem_keys",
                "the API server verifies tokens here; to verify them by keys, use the auth method jwt",
            ));
        }
        if disable_local_ca_jwt && kubernetes_ca_cert.is_empty() {
            return Err(BackendError::field(
                "kubernetes_ca_cert",
                "must be given when disable_local_ca_jwt is true",
            ));
        }
        if !disable_iss_validation && issuer.is_empty() {
            return Err(BackendError::field(
                "issuer",
                "must be given when disable_iss_validation is false",
            ));
        }
        let config = Self {
            kubernetes_host,
            kubernetes_ca_cert,
            token_reviewer_jwt: token_reviewer_jwt.unwrap_or_else(|| Secret::new("")),
            disable_local_ca_jwt,
            issuer,
            disable_iss_validation,
        };
        config.reviews()?;
        Upstream::new(&config.kubernetes_ca_cert)
            .map_err(|problem| BackendError::field("kubernetes_ca_cert", problem))?;
        Ok(config)
    }

    /// Where token reviews are made.
    ///
    /// # Errors
    /// What is wrong with the host.
    pub(crate) fn reviews(&self) -> Result<Url, BackendError> {
        let wrong = |problem| BackendError::field("kubernetes_host", problem);
        check_base(&self.kubernetes_host).map_err(wrong)?;
        let host = self.kubernetes_host.trim_end_matches('/');
        check_base(&format!(
            "{host}/apis/authentication.k8s.io/v1/tokenreviews"
        ))
        .map_err(wrong)
    }

    /// What may be shown.
    pub(crate) fn view(self) -> ConfigView {
        ConfigView {
            token_reviewer_jwt_set: !self.token_reviewer_jwt.is_empty(),
            kubernetes_host: self.kubernetes_host,
            kubernetes_ca_cert: self.kubernetes_ca_cert,
            disable_local_ca_jwt: self.disable_local_ca_jwt,
            issuer: self.issuer,
            disable_iss_validation: self.disable_iss_validation,
            pem_keys: Vec::new(),
        }
    }
}

/// The service account of the pod that Daypass runs in, where it runs in one.
pub(crate) struct Pod(pub(crate) PathBuf);

impl Default for Pod {
    /// Where a kubelet puts it.
    fn default() -> Self {
        Self("/var/run/secrets/kubernetes.io/serviceaccount".into())
    }
}

impl Pod {
    /// The certificates of the cluster's authority.
    pub(crate) async fn ca(&self) -> Option<String> {
        tokio::fs::read_to_string(self.0.join("ca.crt")).await.ok()
    }

    /// The pod's own token; the kubelet exchanges it every hour, so it is read anew each time.
    pub(crate) async fn token(&self) -> Option<Secret> {
        let bytes = tokio::fs::read(self.0.join("token")).await.ok()?;
        Some(Secret::new(bytes.trim_ascii()))
    }
}
