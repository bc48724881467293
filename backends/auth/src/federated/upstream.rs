//! Asking an issuer or an API server over HTTPS, within limits.
//!
//! **Invariant:** nothing here follows a redirect, reads more than [`LARGEST_ANSWER`] or waits longer than
//! [`TIMEOUT`]; errors name what went wrong and neither the address nor anything that was sent.

use std::net::IpAddr;
use std::time::Duration;

use daypass_contract::{BackendError, Source};
use reqwest::{Certificate, RequestBuilder, Url};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a question may take from its first byte to the last of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the largest answer that is read. Key sets have ten thousand.
const LARGEST_ANSWER: usize = 1 << 20;

/// Why an upstream gave no answer that can be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took longer than it may.
    #[error("it did not answer in time")]
    TimedOut,
    /// It answered with this status.
    #[error("it answered with status {0}")]
    Status(u16),
    /// It sent more than it may.
    #[error("its answer is larger than {LARGEST_ANSWER} bytes")]
    TooLarge,
    /// It sent something else than was asked for.
    #[error("its answer is not {0}")]
    Unexpected(&'static str),
}

impl Failed {
    /// For a caller who cannot do anything about it but try again.
    pub(crate) fn unavailable(self, what: &str) -> BackendError {
        BackendError::Unavailable {
            retry_after: None,
            source: Source::from(format!("{what}: {self}")),
        }
    }
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        // The innermost cause says it best: "Connection refused", "invalid peer certificate: …".
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Self::Unreachable(cause.to_string())
    }
}

/// A client for one upstream.
#[derive(Clone)]
pub(crate) struct Upstream(reqwest::Client);

impl Upstream {
    /// A client that trusts the certificates in `ca_pem`, or those of the system where it is empty.
    ///
    /// # Errors
    /// What is wrong with `ca_pem`.
    pub(crate) fn new(ca_pem: &str) -> Result<Self, &'static str> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        if !ca_pem.is_empty() {
            let certificates = Certificate::from_pem_bundle(ca_pem.as_bytes())
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or("must be one or more certificates in PEM")?;
            builder = builder.tls_certs_only(certificates);
        }
        builder
            .build()
            .map(Self)
            .map_err(|_| "must be certificates that can sign others, in PEM")
    }

    /// Fetches a document of JSON.
    pub(crate) async fn get(&self, url: Url) -> Result<Vec<u8>, Failed> {
        let (status, body) = self.send(self.0.get(url)).await?;
        if status == 200 {
            Ok(body)
        } else {
            Err(Failed::Status(status))
        }
    }

    /// A request to post to `url`, for [`Self::send`].
    pub(crate) fn post(&self, url: Url) -> RequestBuilder {
        self.0.post(url)
    }

    /// Sends a request and reads the answer, whatever its status.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<(u16, Vec<u8>), Failed> {
        let request = request.header("Accept", "application/json");
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failed::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }
}

/// Reads the address of an upstream. Who controls the connection decides whom it vouches for, so it is
/// HTTPS; only on loopback, for tests and side-cars, plain HTTP will do.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL, such as https://issuer.example")?;
    let host = url.host_str().ok_or("must name a host")?;
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err("must begin with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or password");
    }
    Ok(url)
}

/// Reads an address that paths are added to.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_base(text: &str) -> Result<Url, &'static str> {
    let url = check_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or fragment");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_addressed_by_https() {
        let cases = [
            ("https://issuer.example/path", true),
            ("https://127.0.0.1:8443", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost", true),
            ("http://[::1]:80", true),
            ("http://issuer.example", false),
            ("http://127.evil.example", false),
            ("ftp://127.0.0.1", false),
            ("https://me:pw@issuer.example", false),
            ("https://issuer.example/?a=b", false),
            ("https://issuer.example/#a", false),
            ("issuer.example", false),
            ("", false),
        ];
        for (text, want) in cases {
            assert_eq!(check_base(text).is_ok(), want, "{text}");
        }
        assert!(check_url("https://issuer.example/keys?policy=a").is_ok());
    }
}
