//! From an HTTP request to an engine [`Request`], and back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::response::Response;
use daypass_contract::{Operation, Peer, Secret, parse_duration};
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::envelope::respond;
use super::unserved::{Unserved, Why};
use crate::config;
use crate::engine::{ControlPlane, Failure, InFlightRequest, Request};

/// Limits on what a client may ask of the server at once.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// The largest body, in bytes.
    pub max_body: usize,
    /// From the first byte of a request to the last of its answer.
    pub request_timeout: Duration,
    /// Requests worked on at a time; more are answered 503.
    pub max_concurrent_requests: usize,
    /// Open connections over all listeners; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Headers of one request.
    pub max_headers: usize,
    /// Bytes of all headers of one request.
    pub max_header_bytes: usize,
    /// How long a client may take to send its headers.
    pub header_timeout: Duration,
}

impl From<&config::Limits> for HttpLimits {
    fn from(limits: &config::Limits) -> Self {
        Self {
            max_body: limits.max_body_bytes,
            request_timeout: limits.request_timeout,
            max_concurrent_requests: limits.max_concurrent_requests,
            max_connections: limits.max_connections,
            max_headers: limits.max_headers,
            max_header_bytes: limits.max_header_bytes,
            header_timeout: limits.header_timeout,
        }
    }
}

/// Serves HTTP requests from a control plane.
#[derive(Clone)]
pub struct Service {
    plane: Arc<ControlPlane>,
    limits: Arc<HttpLimits>,
    room: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    unserved: Arc<Unserved>,
}

impl Service {
    /// A service with these limits.
    pub fn new(plane: Arc<ControlPlane>, limits: HttpLimits) -> Self {
        let room = Arc::new(Semaphore::new(limits.max_concurrent_requests));
        let connections = Arc::new(Semaphore::new(limits.max_connections));
        Self {
            unserved: Arc::new(Unserved::new(Arc::clone(&plane.audit))),
            plane,
            limits: Arc::new(limits),
            room,
            connections,
        }
    }

    pub(super) fn limits(&self) -> &HttpLimits {
        &self.limits
    }

    pub(super) fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// Answers one request.
    pub async fn handle(&self, request: http::Request<HttpBody>, peer: Peer) -> Response {
        let id = uuid::Uuid::new_v4().to_string();
        let head = request.method() == Method::HEAD;
        // Kept until the work is done, also where its caller hung up or was told that it took too long.
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            self.unserved.note(Why::TooMany);
            return respond(
                &id,
                Err(Failure::Unavailable(
                    "server is at its limit of requests; try again".into(),
                )),
            );
        };
        let started = tokio::time::Instant::now();
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let _in_flight = self.plane.in_flight.enter(
            &id,
            InFlightRequest {
                started_at: self.plane.clock.now(),
                remote: peer.address,
                path: path.clone(),
                method: method.to_string(),
            },
        );
        let work = self.answer(&id, request, peer, room);
        let answered = tokio::time::timeout(self.limits.request_timeout, work).await;
        let mut response = answered.unwrap_or_else(|_| {
            self.unserved.note(Why::TooLong);
            let text = "request took too long; what it began is finished or undone";
            respond(&id, Err(Failure::Unavailable(text.into())))
        });
        let status = response.status();
        super::sys_metrics::count_request(&method, status, started.elapsed());
        tracing::debug!(request = id, %method, path, status = status.as_u16(), "served");
        if head {
            *response.body_mut() = HttpBody::empty();
        }
        response
    }

    async fn answer(
        &self,
        id: &str,
        request: http::Request<HttpBody>,
        peer: Peer,
        room: OwnedSemaphorePermit,
    ) -> Response {
        let mut parsed = Request {
            id: id.to_owned(),
            operation: Operation::Read,
            status_only: request.method() == Method::HEAD,
            path: request.uri().path().trim_start_matches('/').to_owned(),
            token: token(request.headers()),
            fields: Map::new(),
            peer,
            wrap_ttl: None,
            own: false,
        };
        match self.parse(&mut parsed, request).await {
            Ok(()) => respond(id, self.plane.serve_holding(parsed, room).await),
            Err(failure) => {
                parsed.fields = Map::new();
                respond(id, Err(self.plane.refuse(&parsed, failure)))
            }
        }
    }

    /// Reads what `request` asks into `parsed`, as far as it can be read.
    async fn parse(
        &self,
        parsed: &mut Request,
        request: http::Request<HttpBody>,
    ) -> Result<(), Failure> {
        let (parts, body) = request.into_parts();
        let raw = parts.uri.path();
        let Some(path) = raw.strip_prefix("/v1/") else {
            let text = format!("{raw} (the API is below /v1/)");
            return Err(Failure::NoRoute(text));
        };
        parsed.path = decode_path(path)?;
        check_namespace(&parts.headers)?;
        parsed.wrap_ttl = wrap_ttl(&parts.headers)?;
        let mut fields = query(parts.uri.query().unwrap_or_default())?;
        let listing = matches!(parts.method, Method::GET | Method::HEAD)
            && fields
                .get("list")
                // The spellings that Go reads as true; hvac writes Python's.
                .and_then(Value::as_str)
                .is_some_and(|text| ["1", "t", "T", "true", "TRUE", "True"].contains(&text));
        if listing {
            fields.remove("list");
        }
        parsed.operation = match parts.method.as_str() {
            "GET" | "HEAD" if listing => Operation::List,
            "GET" | "HEAD" => Operation::Read,
            "LIST" => Operation::List,
            "POST" | "PUT" => Operation::Write,
            "PATCH" => Operation::Patch,
            "DELETE" => Operation::Delete,
            other => return Err(Failure::WrongOperation(format!("no method {other}"))),
        };
        let limit = self.limits.max_body;
        let bytes = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                Failure::TooLarge(limit)
            } else {
                Failure::Invalid("request body could not be read to its end".into())
            }
        })?;
        let bytes = bytes.to_bytes();
        if !bytes.is_empty()
            && matches!(
                parsed.operation,
                Operation::Write | Operation::Patch | Operation::Delete
            )
        {
            // serde_json's message may quote what was sent: only the place is told.
            let body: Value = serde_json::from_slice(&bytes).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                Failure::Invalid(format!(
                    "body is not valid JSON at line {line}, column {column}"
                ))
            })?;
            match body {
                Value::Object(body) => fields.extend(body),
                Value::Null => {}
                _ => return Err(Failure::Invalid("body must be a JSON object".into())),
            }
        }
        parsed.fields = fields;
        Ok(())
    }
}

/// The path with its percent-encoding undone once. Segments that would mean another path are refused,
/// so that policy and backend see the same one.
fn decode_path(raw: &str) -> Result<String, Failure> {
    let decoded = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Failure::Invalid("path is not UTF-8".into()))?;
    let mut segments = decoded.strip_suffix('/').unwrap_or(&decoded).split('/');
    let strange =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.chars().any(char::is_control);
    if segments.any(strange) {
        return Err(Failure::Invalid(
            "path has an empty segment, a segment \".\" or \"..\", or a control character".into(),
        ));
    }
    Ok(decoded.into_owned())
}

fn query(text: &str) -> Result<Map<String, Value>, Failure> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if fields
            .insert(name.clone().into_owned(), value.into_owned().into())
            .is_some()
        {
            return Err(Failure::Invalid(format!(
                "query parameter \"{name}\" is given twice"
            )));
        }
    }
    Ok(fields)
}

fn check_namespace(headers: &HeaderMap) -> Result<(), Failure> {
    let given = headers
        .get("x-vault-namespace")
        .map(|value| value.as_bytes().trim_ascii());
    match given {
        None | Some(b"" | b"root" | b"/") => Ok(()),
        Some(_) => Err(Failure::Invalid(
            "there are no namespaces here: leave X-Vault-Namespace out".into(),
        )),
    }
}

/// For how long the caller wants the answer wrapped, where at all.
fn wrap_ttl(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(given) = headers.get("x-vault-wrap-ttl") else {
        return Ok(None);
    };
    let text = given.to_str().unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(None);
    }
    match parse_duration(text) {
        Some(ttl) => Ok(Some(ttl).filter(|ttl| !ttl.is_zero())),
        None => Err(Failure::Invalid(
            "header X-Vault-Wrap-TTL: must be seconds or a duration such as 5m".into(),
        )),
    }
}

fn token(headers: &HeaderMap) -> Option<Secret> {
    let direct = headers
        .get("x-vault-token")
        .map(http::HeaderValue::as_bytes);
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    };
    direct
        .or_else(bearer)
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
        .map(Secret::new)
}
