//! The Vault API's envelope around what a request answers.

use std::collections::BTreeMap;

use axum::body::Body as HttpBody;
use axum::response::Response;
use daypass_contract::Secret;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::errors;
use super::rfc3339;
use crate::engine::{Answer, AuthView, Body, Failure, LeaseView, WrapView};

#[derive(Serialize)]
struct Envelope<'a> {
    request_id: &'a str,
    lease_id: &'a str,
    renewable: bool,
    lease_duration: u64,
    data: Option<&'a RawValue>,
    wrap_info: Option<WrapInfo<'a>>,
    warnings: Option<&'a [String]>,
    auth: Option<&'a AuthView>,
}

#[derive(Serialize)]
struct WrapInfo<'a> {
    #[serde(serialize_with = "daypass_contract::reveal")]
    token: &'a Secret,
    accessor: &'a str,
    ttl: u64,
    creation_time: String,
    creation_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrapped_accessor: Option<&'a str>,
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: &'a [String],
}

/// The HTTP answer to request `id`.
pub(super) fn respond(id: &str, result: Result<Answer, Failure>) -> Response {
    match result {
        Ok(answer) => success(id, &answer),
        Err(failure) => {
            let status =
                StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = json(
                status,
                &Errors {
                    errors: &errors(&failure),
                },
            );
            if let Failure::TooMany { retry_after, .. } = &failure {
                let seconds = HeaderValue::from(retry_after.as_secs().max(1));
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            response
        }
    }
}

fn success(id: &str, answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::OK);
    let warnings = (!answer.warnings.is_empty()).then_some(answer.warnings.as_slice());
    let envelope = |data: Option<&daypass_contract::Json>,
                    lease: Option<&LeaseView>,
                    auth: Option<&AuthView>| {
        // What a handler encoded is JSON already and goes in as it is.
        let data = data.map(|data| serde_json::from_slice::<&RawValue>(data.expose()));
        let Ok(data) = data.transpose() else {
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/json",
                Vec::new(),
            );
        };
        let envelope = Envelope {
            request_id: id,
            lease_id: lease.map_or("", |lease| lease.id.as_str()),
            renewable: lease.is_some_and(|lease| lease.renewable),
            lease_duration: lease.map_or(0, |lease| lease.ttl.as_secs()),
            data,
            wrap_info: None,
            warnings,
            auth,
        };
        json(status, &envelope)
    };
    match &answer.body {
        Body::Nothing if warnings.is_none() => plain(status, "application/json", Vec::new()),
        Body::Nothing | Body::Accepted => envelope(None, None, None),
        Body::Data(data) | Body::Absent(data) => envelope(Some(data), None, None),
        Body::Lease(data, lease) => envelope(Some(data), Some(lease), None),
        Body::Auth(auth) => envelope(None, None, Some(auth)),
        Body::Wrapped(wrap) => wrapped(id, wrap, warnings),
        Body::Kept(parts) => kept(id, parts),
        Body::Flat(data) => flat(id, data, warnings),
        Body::Plain { json, .. } => plain(status, "application/json", json.expose().to_vec()),
        Body::Raw {
            content_type,
            bytes,
        } => {
            let mut response = plain(status, content_type, bytes.clone());
            // Discovery and key sets. A key is published for longer than this before it signs.
            if *content_type == "application/json" {
                let keep = HeaderValue::from_static("public, max-age=60");
                response.headers_mut().insert(header::CACHE_CONTROL, keep);
            }
            response
        }
    }
}

/// The token that opens an answer, in its stead.
fn wrapped(id: &str, wrap: &WrapView, warnings: Option<&[String]>) -> Response {
    let envelope = Envelope {
        request_id: id,
        lease_id: "",
        renewable: false,
        lease_duration: 0,
        data: None,
        wrap_info: Some(WrapInfo {
            token: &wrap.token,
            accessor: &wrap.accessor,
            ttl: wrap.ttl.as_secs(),
            creation_time: rfc3339(wrap.created_at),
            creation_path: &wrap.creation_path,
            wrapped_accessor: wrap.wrapped_accessor.as_deref(),
        }),
        warnings,
        auth: None,
    };
    json(StatusCode::OK, &envelope)
}

/// An answer that was kept, with the id of the request that opened it.
fn kept(id: &str, parts: &daypass_contract::Json) -> Response {
    let parts = serde_json::from_slice::<BTreeMap<&str, &RawValue>>(parts.expose());
    let id = serde_json::value::to_raw_value(id);
    let (Ok(mut parts), Ok(id)) = (parts, id) else {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            Vec::new(),
        );
    };
    parts.insert("request_id", &id);
    json(StatusCode::OK, &parts)
}

/// The fields of `data` both under `data` and beside the envelope's own.
fn flat(id: &str, data: &daypass_contract::Json, warnings: Option<&[String]>) -> Response {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(data.expose()) else {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            Vec::new(),
        );
    };
    let mut whole = fields.clone();
    whole.insert("request_id".into(), id.into());
    whole.insert("lease_id".into(), "".into());
    whole.insert("renewable".into(), false.into());
    whole.insert("lease_duration".into(), 0.into());
    whole.insert("wrap_info".into(), serde_json::Value::Null);
    whole.insert(
        "warnings".into(),
        warnings.map_or(serde_json::Value::Null, std::convert::Into::into),
    );
    whole.insert("auth".into(), serde_json::Value::Null);
    whole.insert("data".into(), fields.into());
    json(StatusCode::OK, &whole)
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            plain(status, "application/json", bytes)
        }
        Err(_) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            Vec::new(),
        ),
    }
}

fn plain(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(HttpBody::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Also where there is nothing to say: the cache of `bao agent` ignores revocations that are not
    // answered as JSON.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
