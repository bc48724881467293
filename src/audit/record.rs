//! The bodies of records. They borrow everything, so that filling one costs no allocation, and where
//! they mean what Vault's audit format means, their fields have its names.
//!
//! **Invariant:** whatever could hold a secret has the type [`Hashed`] or [`HashedJson`]. Paths, names,
//! addresses and reasons are written in clear; an error text must not quote a value, as everywhere.

use serde::{Serialize, Serializer};

use super::hash::{Hashed, HashedJson};

/// A list of names, however its owner holds them.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// Names borrowed one by one.
    Borrowed(&'a [&'a str]),
    /// Names owned one by one.
    Owned(&'a [String]),
}

impl Names<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Borrowed(names) => names.is_empty(),
            Self::Owned(names) => names.is_empty(),
        }
    }
}

impl Default for Names<'_> {
    fn default() -> Self {
        Self::Borrowed(&[])
    }
}

impl<'a> From<&'a [String]> for Names<'a> {
    fn from(names: &'a [String]) -> Self {
        Self::Owned(names)
    }
}

impl<'a> From<&'a Vec<String>> for Names<'a> {
    fn from(names: &'a Vec<String>) -> Self {
        Self::Owned(names)
    }
}

impl<'a> From<&'a [&'a str]> for Names<'a> {
    fn from(names: &'a [&'a str]) -> Self {
        Self::Borrowed(names)
    }
}

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Borrowed(names) => names.serialize(serializer),
            Self::Owned(names) => names.serialize(serializer),
        }
    }
}

/// A request and what was decided about it, before anything is done: [`Kind::Request`](super::Kind).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RequestRecord<'a> {
    /// Who asks; absent for requests without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Principal<'a>>,
    /// What is asked.
    pub request: Request<'a>,
    /// Whether it is allowed; absent for paths that need no decision, such as a login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision<'a>>,
    /// Why it goes no further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// What a request was answered: [`Kind::Response`](super::Kind).
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ResponseRecord<'a> {
    /// Who asked; absent for requests without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Principal<'a>>,
    /// What was asked; its `data` need not be given again.
    pub request: Request<'a>,
    /// Whether it was allowed: this may be the only record of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision<'a>>,
    /// The answer.
    pub response: Response<'a>,
    /// The error text of an answer that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The caller: a token, its entity, and on whose behalf it acts.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Principal<'a> {
    /// The token's display name.
    pub display_name: &'a str,
    /// The token itself, where it must be found again by `sys/audit-hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_token: Option<&'a Hashed>,
    /// The token's accessor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accessor: Option<&'a Hashed>,
    /// All policies that apply.
    #[serde(skip_serializing_if = "Names::is_empty")]
    pub policies: Names<'a>,
    /// The entity's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_id: Option<&'a str>,
    /// `service`, `batch`, or how else the caller is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'a str>,
    /// The `act` chain (RFC 8693 section 4.1), the present actor first.
    #[serde(skip_serializing_if = "Names::is_empty")]
    pub delegation: Names<'a>,
}

/// A request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Request<'a> {
    /// The request id that its caller sees.
    pub id: &'a str,
    /// `read`, `update`, `list` and so on.
    pub operation: &'a str,
    /// The full path, without `/v1/`.
    pub path: &'a str,
    /// The path of the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<&'a str>,
    /// The type of the mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_type: Option<&'a str>,
    /// The accessor of the mount, which is not secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_accessor: Option<&'a str>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<&'a str>,
    /// The serial number of the client's TLS certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_serial_number: Option<&'a str>,
    /// The SPIFFE ID of the client's TLS certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_spiffe_id: Option<&'a str>,
    /// For how long the answer is to be wrapped, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap_ttl: Option<u64>,
    /// Its body and query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a HashedJson>,
}

/// What was decided, and why.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Decision<'a> {
    /// Whether the action may be done.
    pub allowed: bool,
    /// The policies and guards that determined it.
    #[serde(skip_serializing_if = "Names::is_empty")]
    pub policies: Names<'a>,
    /// The reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The approval request that it waits for or rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<&'a str>,
}

/// An answer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The lease that was made or renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Leased<'a>>,
    /// The token that a login made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Principal<'a>>,
    /// The wrapping of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap_info: Option<WrapInfo<'a>>,
    /// Its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a HashedJson>,
    /// Its warnings.
    #[serde(skip_serializing_if = "Names::is_empty")]
    pub warnings: Names<'a>,
}

/// What is leased in an answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Leased<'a> {
    /// The lease's id.
    pub lease_id: &'a str,
}

/// The wrapping of an answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WrapInfo<'a> {
    /// The wrapping token.
    pub token: &'a Hashed,
    /// Its accessor.
    pub accessor: &'a Hashed,
    /// How long it lasts, in seconds.
    pub ttl: u64,
    /// The path whose answer is wrapped.
    pub creation_path: &'a str,
}

/// What the server did on its own or to itself: [`Kind::Event`](super::Kind).
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// What happened: `lease.revoked`, `lease.expired`, `key.rotated`, `server.sealed`, `config.changed`.
    pub what: &'a str,
    /// The path of what it happened to.
    pub path: Option<&'a str>,
    /// The lease it happened to.
    pub lease_id: Option<&'a str>,
    /// The entity it happened to.
    pub entity_id: Option<&'a str>,
    /// The request that led to it.
    pub request_id: Option<&'a str>,
    /// The decision behind it, as when a lease is evaluated again.
    pub decision: Option<Decision<'a>>,
    /// Whatever else there is to say, by name; never a secret.
    pub details: &'a [(&'a str, &'a str)],
    /// Why it failed, where it did.
    pub error: Option<&'a str>,
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Record<'a> {
            event: Body<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            decision: Option<Decision<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            what: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            lease_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            entity_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
            #[serde(serialize_with = "pairs", skip_serializing_if = "<[_]>::is_empty")]
            details: &'a [(&'a str, &'a str)],
        }
        Record {
            event: Body {
                what: self.what,
                path: self.path,
                lease_id: self.lease_id,
                entity_id: self.entity_id,
                request_id: self.request_id,
                details: self.details,
            },
            decision: self.decision,
            error: self.error,
        }
        .serialize(serializer)
    }
}

fn pairs<S: Serializer>(pairs: &[(&str, &str)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;
    use crate::audit::Hasher;

    #[test]
    fn records_have_the_names_of_vaults_audit_format() {
        let hasher = Hasher::sealed();
        let hash = hasher.hash(b"x");
        let data = hasher.hash_json(br#"{"role":"x"}"#, &[]);
        let policies = vec!["default".to_owned(), "ci".to_owned()];
        let auth = Principal {
            display_name: "token-ci",
            client_token: Some(&hash),
            accessor: Some(&hash),
            policies: (&policies).into(),
            entity_id: Some("e1"),
            token_type: Some("service"),
            delegation: (&["agent-7"][..]).into(),
        };
        let request = Request {
            id: "r1",
            operation: "update",
            path: "pki/issue/web",
            mount_point: Some("pki/"),
            mount_type: Some("pki"),
            mount_accessor: Some("pki_1"),
            remote_address: Some("10.0.0.1"),
            client_certificate_serial_number: Some("01:02"),
            client_spiffe_id: Some("spiffe://a/b"),
            wrap_ttl: Some(60),
            data: Some(&data),
        };
        let record = RequestRecord {
            auth: Some(auth),
            request,
            decision: Some(Decision {
                allowed: false,
                policies: policies.as_slice().into(),
                reason: Some("no"),
                approval_id: Some("a1"),
            }),
            error: Some("permission denied"),
        };
        let auth_json = json!({
            "display_name": "token-ci", "client_token": "sealed", "accessor": "sealed",
            "policies": ["default", "ci"], "entity_id": "e1", "token_type": "service",
            "delegation": ["agent-7"],
        });
        let want = json!({
            "auth": auth_json,
            "request": {
                "id": "r1", "operation": "update", "path": "pki/issue/web", "mount_point": "pki/",
                "mount_type": "pki", "mount_accessor": "pki_1", "remote_address": "10.0.0.1",
                "client_certificate_serial_number": "01:02", "client_spiffe_id": "spiffe://a/b",
                "wrap_ttl": 60, "data": {"role": "sealed"},
            },
            "decision": {
                "allowed": false, "policies": ["default", "ci"], "reason": "no", "approval_id": "a1",
            },
            "error": "permission denied",
        });
        assert_eq!(to_value(record).unwrap(), want);
        let answer = ResponseRecord {
            auth: None,
            request: Request::default(),
            decision: Some(Decision::default()),
            response: Response {
                status: 200,
                secret: Some(Leased { lease_id: "l1" }),
                auth: Some(auth),
                wrap_info: Some(WrapInfo {
                    token: &hash,
                    accessor: &hash,
                    ttl: 60,
                    creation_path: "p",
                }),
                data: Some(&data),
                warnings: (&["w"][..]).into(),
            },
            error: None,
        };
        let want = json!({
            "request": {"id": "", "operation": "", "path": ""},
            "decision": {"allowed": false},
            "response": {
                "status": 200, "secret": {"lease_id": "l1"}, "auth": auth_json,
                "wrap_info": {
                    "token": "sealed", "accessor": "sealed", "ttl": 60, "creation_path": "p",
                },
                "data": {"role": "sealed"}, "warnings": ["w"],
            },
        });
        assert_eq!(to_value(answer).unwrap(), want);
    }

    #[test]
    fn an_event_says_only_what_there_is_to_say() {
        let event = Event {
            what: "lease.revoked",
            lease_id: Some("l1"),
            details: &[("cause", "expired")],
            error: Some("upstream is unavailable"),
            ..Event::default()
        };
        let want = json!({
            "event": {"what": "lease.revoked", "lease_id": "l1", "details": {"cause": "expired"}},
            "error": "upstream is unavailable",
        });
        assert_eq!(to_value(event).unwrap(), want);
    }
}
