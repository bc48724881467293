//! Settings of a mount: `config/urls`, `config/crl`, `config/issuers`. What cannot be honoured is refused.

use std::sync::Arc;
use std::time::Duration;

use daypass_certs::{San, Urls};
use daypass_contract::{BackendError, Call, NoFields, Reply, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::Pki;
use crate::crl;
use crate::merge::merged;
use crate::state::State;

/// URLs that every certificate carries: `config/urls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UrlsConfig {
    /// Where the issuer's own certificate is.
    pub(crate) issuing_certificates: Vec<String>,
    /// Where the CRL is.
    pub(crate) crl_distribution_points: Vec<String>,
    /// OCSP responders, run by others.
    pub(crate) ocsp_servers: Vec<String>,
    /// Not supported: must be false.
    pub(crate) enable_templating: bool,
    /// Not supported: must be empty.
    pub(crate) delta_crl_distribution_points: Vec<String>,
}

impl UrlsConfig {
    pub(crate) fn to_urls(&self) -> Urls {
        Urls {
            issuing_certificates: self.issuing_certificates.clone(),
            crl_distribution_points: self.crl_distribution_points.clone(),
            ocsp_servers: self.ocsp_servers.clone(),
        }
    }
}

impl UrlsConfig {
    /// Refuses what cannot be honoured.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let lists = [
            ("issuing_certificates", &self.issuing_certificates),
            ("crl_distribution_points", &self.crl_distribution_points),
            ("ocsp_servers", &self.ocsp_servers),
        ];
        for (field, urls) in lists {
            if urls
                .iter()
                .any(|url| San::Uri(url.clone()).check().is_err())
            {
                return Err(BackendError::field(field, "expected absolute URLs"));
            }
        }
        if self.enable_templating {
            return Err(BackendError::field(
                "enable_templating",
                "is not supported: must be false",
            ));
        }
        if !self.delta_crl_distribution_points.is_empty() {
            let problem = "is not supported: must be empty";
            return Err(BackendError::field(
                "delta_crl_distribution_points",
                problem,
            ));
        }
        Ok(())
    }
}

/// How CRLs are built: `config/crl`.
#[expect(clippy::struct_excessive_bools, reason = "the fields of the Vault API")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CrlConfig {
    /// How long a CRL is valid.
    #[serde(
        serialize_with = "with_unit",
        deserialize_with = "duration::deserialize"
    )]
    #[schemars(with = "String")]
    pub(crate) expiry: Duration,
    /// Whether CRLs are empty whatever was revoked.
    pub(crate) disable: bool,
    /// Whether a revocation waits for the next periodic build.
    pub(crate) auto_rebuild: bool,
    /// How long before its end a CRL is built anew.
    #[serde(
        serialize_with = "with_unit",
        deserialize_with = "duration::deserialize"
    )]
    #[schemars(with = "String")]
    pub(crate) auto_rebuild_grace_period: Duration,
    /// Whether a certificate that has expired can still be revoked.
    pub(crate) allow_expired_cert_revocation: bool,
    /// Not supported: must be false.
    pub(crate) enable_delta: bool,
    /// There is no OCSP responder here, whatever this says.
    pub(crate) ocsp_disable: bool,
    /// Not supported: must be `12h`.
    pub(crate) ocsp_expiry: String,
    /// Not supported: must be `15m`.
    pub(crate) delta_rebuild_interval: String,
}

impl Default for CrlConfig {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(72 * 3600),
            disable: false,
            auto_rebuild: false,
            auto_rebuild_grace_period: Duration::from_secs(12 * 3600),
            allow_expired_cert_revocation: false,
            enable_delta: false,
            ocsp_disable: true,
            ocsp_expiry: "12h".into(),
            delta_rebuild_interval: "15m".into(),
        }
    }
}

impl CrlConfig {
    /// Refuses what cannot be honoured.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let year = Duration::from_secs(366 * 86_400);
        let fields = [
            (
                "expiry",
                self.expiry >= Duration::from_secs(60) && self.expiry <= year,
                "must be between a minute and a year",
            ),
            (
                "auto_rebuild_grace_period",
                self.auto_rebuild_grace_period < self.expiry,
                "must be less than expiry",
            ),
            (
                "enable_delta",
                !self.enable_delta,
                "is not supported: must be false",
            ),
            (
                "ocsp_expiry",
                self.ocsp_expiry == "12h",
                "is not supported: leave it out",
            ),
            (
                "delta_rebuild_interval",
                self.delta_rebuild_interval == "15m",
                "is not supported: leave it out",
            ),
        ];
        match fields.iter().find(|(_, honoured, _)| !honoured) {
            Some((field, _, problem)) => Err(BackendError::field(field, *problem)),
            None => Ok(()),
        }
    }
}

/// Writes a duration as `config/crl` of the Vault API does: `72h`.
fn with_unit<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = value.as_secs();
    let text = match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    };
    serializer.collect_str(&text)
}

/// The mount's default issuer: `config/issuers`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IssuersConfig {
    /// An id, or a name where it is written.
    default: String,
    /// Whether each new issuer that can sign becomes the default.
    default_follows_latest_issuer: bool,
}

impl IssuersConfig {
    fn of(state: &State) -> Self {
        Self {
            default: state.default_issuer.clone().unwrap_or_default(),
            default_follows_latest_issuer: state.default_follows_latest_issuer,
        }
    }
}

/// `GET config/issuers`.
pub(crate) async fn read_issuers_config(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<IssuersConfig>, BackendError> {
    Reply::data(&IssuersConfig::of(&pki.mount.snapshot().await?.state))
}

/// `POST config/issuers`: fields that are not given stay.
pub(crate) async fn write_issuers_config(
    pki: Arc<Pki>,
    call: Call,
    _: IssuersConfig,
) -> Result<Reply<IssuersConfig>, BackendError> {
    let config = pki
        .mount
        .update(|state, batch| {
            let config = merged(&IssuersConfig::of(state), &call.body)?;
            if !config.default.is_empty() {
                let id = state.issuer_id(&config.default).ok_or_else(|| {
                    BackendError::field("default", "there is no issuer with this id or name")
                })?;
                state.default_issuer = Some(id.to_owned());
            }
            state.default_follows_latest_issuer = config.default_follows_latest_issuer;
            Ok((IssuersConfig::of(state), batch))
        })
        .await?;
    Reply::data(&config)
}

/// `GET config/urls`.
pub(crate) async fn read_urls(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<UrlsConfig>, BackendError> {
    Reply::data(&pki.mount.snapshot().await?.state.urls)
}

/// `POST config/urls`: fields that are not given stay.
pub(crate) async fn write_urls(
    pki: Arc<Pki>,
    call: Call,
    _: UrlsConfig,
) -> Result<Reply<UrlsConfig>, BackendError> {
    let urls = pki
        .mount
        .update(|state, batch| {
            state.urls = merged(&state.urls, &call.body)?;
            state.urls.check()?;
            Ok((state.urls.clone(), batch))
        })
        .await?;
    Reply::data(&urls)
}

/// `GET config/crl`.
pub(crate) async fn read_crl(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CrlConfig>, BackendError> {
    Reply::data(&pki.mount.snapshot().await?.state.crl)
}

/// `POST config/crl`: fields that are not given stay.
pub(crate) async fn write_crl(
    pki: Arc<Pki>,
    call: Call,
    _: CrlConfig,
) -> Result<Reply<CrlConfig>, BackendError> {
    let config = pki
        .mount
        .update(|state, batch| {
            state.crl = merged(&state.crl, &call.body)?;
            state.crl.check()?;
            Ok((state.crl.clone(), batch))
        })
        .await?;
    crl::rebuild(&pki, call.now).await?;
    Reply::data(&config)
}
