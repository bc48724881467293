//! A client of the HTTP API: what the commands use, and nothing but the API.
//!
//! Errors are sorted by what the caller does next ([`ClientError`]) and carry the server's own words.
//!
//! **Invariant:** the token goes to the configured address and nowhere else: redirects are not followed,
//! certificates are always checked, and neither the token nor an answer has a `Debug`.

mod error;
mod file;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::BytesMut;
use daypass_contract::{Secret, parse_duration};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub use self::error::ClientError;
pub use self::file::{FileError, TokenFile, write_file, write_private};
pub use self::settings::{Environment, Overrides, Settings};

/// Waiting for a server that is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Waiting for an answer; longer than the server's own default limit.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A larger answer is not read: more than any list or certificate.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What the server answered.
pub struct Answer {
    /// 200, 204, or 404 where something was left to say of what is gone.
    pub status: u16,
    /// What it said.
    pub content: Content,
}

/// The body of an answer. No `Debug`: it may hold secrets.
pub enum Content {
    /// Nothing.
    Empty,
    /// JSON, nearly always the Vault API's envelope.
    Json(Value),
    /// Something else, such as a certificate.
    Raw(Vec<u8>),
}

impl Answer {
    /// The whole JSON body; `null` where there is none.
    pub fn json(&self) -> &Value {
        match &self.content {
            Content::Json(value) => value,
            _ => &Value::Null,
        }
    }

    /// The `data` of the envelope; `null` where there is none.
    pub fn data(&self) -> &Value {
        self.json().get("data").unwrap_or(&Value::Null)
    }
}

/// A connection to one server, as one token.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<HeaderValue>,
    wrap_ttl: Option<HeaderValue>,
    has_certificate: bool,
}

impl Client {
    /// A client with the settings that `overrides`, the environment and the token file give.
    ///
    /// # Errors
    /// [`ClientError::Settings`], which names the setting and the fix.
    pub fn from_env(
        overrides: &Overrides,
        environment: &Environment<'_>,
    ) -> Result<Self, ClientError> {
        Self::new(Settings::read(overrides, environment)?)
    }

    /// A client with these settings.
    ///
    /// # Errors
    /// [`ClientError::Settings`], which names the setting and the fix.
    pub fn new(settings: Settings) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("daypass/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        let base = match settings.address.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                builder = builder.unix_socket(std::path::PathBuf::from(path));
                "http://localhost"
            }
            None => settings.address.as_str(),
        };
        let base = Url::parse(base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                ClientError::settings(
                    "the address must look like https://host:8200 or unix:///path; set it with \
                     --address or DAYPASS_ADDR",
                )
            })?;
        if let Some(path) = &settings.ca_cert {
            let unusable = |problem: String| {
                ClientError::settings(format!("CA certificate {}: {problem}", path.display()))
            };
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|_| unusable("is not a PEM certificate".into()))?;
            if certificates.is_empty() {
                return Err(unusable("holds no PEM certificate".into()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some(identity) = identity(&settings)? {
            builder = builder.identity(identity);
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::settings(format!("cannot set up TLS: {error}")))?;
        let mut client = Self {
            http,
            base,
            token: None,
            wrap_ttl: None,
            has_certificate: settings.client_cert.is_some(),
        };
        if let Some(token) = &settings.token {
            client.set_token(token)?;
        }
        Ok(client)
    }

    /// Speaks as another token from now on.
    ///
    /// # Errors
    /// [`ClientError::Settings`] where it cannot be a token.
    pub fn set_token(&mut self, token: &Secret) -> Result<(), ClientError> {
        let mut value = HeaderValue::from_bytes(token.expose())
            .ok()
            .filter(|_| !token.is_empty())
            .ok_or_else(|| {
                ClientError::settings("the token is not one: it holds line breaks or is empty")
            })?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(())
    }

    /// Asks for answers that are wrapped from now on: the server keeps an answer for so long (`5m`), and gives
    /// a token that opens it once.
    ///
    /// # Errors
    /// [`ClientError::Settings`] where it is no time.
    pub fn set_wrap_ttl(&mut self, ttl: &str) -> Result<(), ClientError> {
        let value = parse_duration(ttl)
            // No time at all would be an answer that is not wrapped.
            .filter(|ttl| !ttl.is_zero())
            .and_then(|_| HeaderValue::from_str(ttl).ok())
            .ok_or_else(|| {
                ClientError::settings(
                    "the time to wrap for must be seconds or a duration such as 5m",
                )
            })?;
        self.wrap_ttl = Some(value);
        Ok(())
    }

    /// Whether it has a certificate to show to the server.
    pub fn has_certificate(&self) -> bool {
        self.has_certificate
    }

    /// The address without user or password, for messages.
    pub fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Reads `path` (`secret/data/a`, without `/v1/`).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, query, None).await
    }

    /// The names below `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, path: &str) -> Result<Answer, ClientError> {
        // Proxies know GET; not all of them know LIST.
        self.send(Method::GET, path, &[("list", "true")], None)
            .await
    }

    /// Writes fields to `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn write(
        &self,
        path: &str,
        fields: &Map<String, Value>,
    ) -> Result<Answer, ClientError> {
        self.send(Method::PUT, path, &[], Some(fields)).await
    }

    /// Changes the given fields of what stands at `path` (RFC 7396).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn patch(
        &self,
        path: &str,
        fields: &Map<String, Value>,
    ) -> Result<Answer, ClientError> {
        self.send(Method::PATCH, path, &[], Some(fields)).await
    }

    /// Deletes what stands at `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<Answer, ClientError> {
        self.send(Method::DELETE, path, &[], None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        fields: Option<&Map<String, Value>>,
    ) -> Result<Answer, ClientError> {
        let (status, answer) = self.exchange(method, path, query, fields).await?;
        let gone = status == StatusCode::NOT_FOUND && !answer.data().is_null();
        if status.is_success() || gone {
            return Ok(answer);
        }
        let unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        if unavailable && self.is_sealed().await {
            return Err(ClientError::Sealed {
                address: self.address(),
            });
        }
        let mut error = ClientError::refused(&self.address(), status.as_u16(), &answer);
        if let ClientError::Denied { anonymous, .. } = &mut error {
            *anonymous = self.token.is_none();
        }
        Err(error)
    }

    /// A 503 says "sealed" or "an upstream is away": only the server knows which.
    async fn is_sealed(&self) -> bool {
        let answer = self
            .exchange(Method::GET, "sys/seal-status", &[], None)
            .await;
        answer.is_ok_and(|(_, answer)| answer.json().get("sealed") == Some(&Value::Bool(true)))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        fields: Option<&Map<String, Value>>,
    ) -> Result<(StatusCode, Answer), ClientError> {
        let mut headers = HeaderMap::new();
        // Proves that the request was not made by a tricked browser or server.
        headers.insert(
            HeaderName::from_static("x-vault-request"),
            HeaderValue::from_static("true"),
        );
        if let Some(token) = &self.token {
            headers.insert(HeaderName::from_static("x-vault-token"), token.clone());
        }
        if let Some(ttl) = &self.wrap_ttl {
            headers.insert(HeaderName::from_static("x-vault-wrap-ttl"), ttl.clone());
        }
        if fields.is_some() {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static(if method == Method::PATCH {
                    "application/merge-patch+json"
                } else {
                    "application/json"
                }),
            );
        }
        let mut request = self
            .http
            .request(method, self.url(path, query)?)
            .headers(headers);
        if let Some(fields) = fields {
            let body = serde_json::to_vec(fields)
                .map_err(|_| ClientError::settings("the fields cannot be written as JSON"))?;
            request = request.body(body);
        }
        let lost = |error: &reqwest::Error| ClientError::lost(&self.address(), error);
        let mut response = request.send().await.map_err(|error| lost(&error))?;
        let status = response.status();
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(ClientError::ServerFault {
                    status: status.as_u16(),
                    errors: vec![format!(
                        "the answer is larger than {MAX_ANSWER_BYTES} bytes"
                    )],
                });
            }
            body.extend_from_slice(&chunk);
        }
        let content = match (body.is_empty(), is_json) {
            (true, _) => Content::Empty,
            (false, true) => match serde_json::from_slice(&body) {
                Ok(value) => Content::Json(value),
                Err(_) => {
                    return Err(ClientError::ServerFault {
                        status: status.as_u16(),
                        errors: vec!["the answer is not valid JSON".into()],
                    });
                }
            },
            (false, false) => Content::Raw(body.into()),
        };
        let answer = Answer {
            status: status.as_u16(),
            content,
        };
        Ok((status, answer))
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, ClientError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_prefix("v1/").unwrap_or(path);
        // A URL drops such segments in silence, and the request would go somewhere else.
        if path.is_empty() || path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(ClientError::settings(
                "the path must name something, without \".\" or \"..\" segments",
            ));
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path.split('/'));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

/// The certificate, with its key, that the settings name.
fn identity(settings: &Settings) -> Result<Option<reqwest::Identity>, ClientError> {
    let Some(path) = &settings.client_cert else {
        return match &settings.client_key {
            Some(_) => Err(ClientError::settings(
                "a client key without a certificate: set --client-cert or DAYPASS_CLIENT_CERT too",
            )),
            None => Ok(None),
        };
    };
    let mut pem = Zeroizing::new(Vec::new());
    for path in [Some(path), settings.client_key.as_ref()]
        .into_iter()
        .flatten()
    {
        let part = std::fs::read(path).map(Zeroizing::new).map_err(|error| {
            ClientError::settings(format!("client certificate: {}: {error}", path.display()))
        })?;
        pem.extend_from_slice(&part);
        pem.push(b'\n');
    }
    let identity = reqwest::Identity::from_pem(&pem).map_err(|_| {
        ClientError::settings(format!(
            "client certificate {}: there is no PEM certificate with its key; set --client-key or \
             DAYPASS_CLIENT_KEY where the key has a file of its own",
            path.display()
        ))
    })?;
    Ok(Some(identity))
}
