//! What anyone may read: certificates, chains and CRLs of issuers, raw and in the envelope.

use std::sync::Arc;
use std::time::SystemTime;

use daypass_certs::Certificate;
use daypass_contract::{BackendError, Call, NoFields, Reply};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Pki;
use crate::crl;
use crate::issuers::{ByIssuer, chain};
use crate::records::CertificateView;

/// `GET cert/ca`.
pub(crate) async fn read_ca(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    Reply::data(&CertificateView::of(
        snapshot.issuer("default")?.certificate.pem(),
    ))
}

/// `GET cert/ca_chain`.
pub(crate) async fn read_ca_chain(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot.issuer("default")?;
    let chain: Vec<String> = issuer.chain.iter().map(Certificate::pem).collect();
    let chain = chain.join("\n");
    Reply::data(&CertificateView {
        ca_chain: Some(chain.clone()),
        ..CertificateView::of(chain)
    })
}

/// What a public endpoint serves.
#[derive(Clone, Copy)]
pub(crate) enum Public {
    /// The issuer's certificate in DER.
    Certificate,
    /// The same in PEM.
    CertificatePem,
    /// The issuer's chain in PEM.
    ChainPem,
    /// The last CRL in DER.
    Crl,
    /// The same in PEM.
    CrlPem,
}

impl Public {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Certificate => "application/pkix-cert",
            Self::CertificatePem | Self::ChainPem => "application/pem-certificate-chain",
            Self::Crl => "application/pkix-crl",
            Self::CrlPem => "application/x-pem-file",
        }
    }
}

/// Serves something public of an issuer, outside the envelope; nothing where there is no default issuer yet.
pub(crate) async fn public(
    pki: &Pki,
    now: SystemTime,
    reference: &str,
    what: Public,
) -> Result<Reply<NoFields>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let Some(issuer) = snapshot.find(reference) else {
        return match reference {
            "default" => Ok(Reply::nothing()),
            _ => Err(BackendError::NotFound),
        };
    };
    let line = |text: String| format!("{text}\n").into_bytes();
    let bytes = match what {
        Public::Certificate => issuer.certificate.der().to_vec(),
        Public::CertificatePem => line(issuer.certificate.pem()),
        Public::ChainPem => chain(issuer).concat().into_bytes(),
        Public::Crl | Public::CrlPem => match crl::current(pki, issuer, now).await? {
            None => return Ok(Reply::nothing()),
            Some(der) if matches!(what, Public::Crl) => der,
            Some(der) => line(daypass_certs::pem("X509 CRL", &der).to_string()),
        },
    };
    Ok(Reply::raw(what.media_type(), bytes))
}

/// The CRL of an issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CrlView {
    crl: String,
}

/// `GET issuer/{issuer_ref}/crl`.
pub(crate) async fn read_issuer_crl(
    pki: Arc<Pki>,
    call: Call,
    request: ByIssuer,
) -> Result<Reply<CrlView>, BackendError> {
    let crl = crl_pem(&pki, call.now, &request.issuer_ref).await?;
    Reply::data(&CrlView {
        crl: format!("{crl}\n"),
    })
}

/// `GET cert/crl`.
pub(crate) async fn read_crl(
    pki: Arc<Pki>,
    call: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    Reply::data(&CertificateView::of(
        crl_pem(&pki, call.now, "default").await?,
    ))
}

async fn crl_pem(pki: &Pki, now: SystemTime, reference: &str) -> Result<String, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot.find(reference).ok_or(BackendError::NotFound)?;
    let der = crl::current(pki, issuer, now).await?;
    let der = der.ok_or(BackendError::NotFound)?;
    Ok(daypass_certs::pem("X509 CRL", &der).to_string())
}
