//! [`Mounted`]: calls a backend through its routes, as the engine does, so that a test reads like a
//! list of API calls.

use std::fmt;
use std::ops;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::route::{Endpoint, Found};
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Body, Call, Caller, Clock as _, Content, Handle, Handler,
    Login, Operation, Peer, Planned, Reply, System as _, Terms, TtlWish,
};
use serde_json::{Map, Value};

use crate::host::TestHost;

/// A backend with its routes, on a test's host.
pub struct Mounted {
    /// The backend itself, for `renew`, `revoke` and `verify`.
    pub backend: Arc<dyn Backend>,
    /// What it declared.
    pub routes: BackendRoutes,
    /// On whose behalf calls are made.
    pub caller: Caller,
    host: TestHost,
}

/// Which of the answers of [`Content`] it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 204.
    Nothing,
    /// 200 with data.
    Data,
    /// 404 with data.
    Absent,
    /// 200 outside the envelope.
    Raw,
}

/// What a handler answered.
#[derive(Debug)]
pub struct Answer {
    /// See [`Kind`].
    pub kind: Kind,
    /// The data; `null` where there is none.
    pub data: Value,
    /// The data or the raw body, byte for byte.
    pub bytes: Vec<u8>,
    /// Advice for the caller.
    pub warnings: Vec<String>,
}

/// A field of the answer's data; `null` where it is not there.
impl ops::Index<&str> for Answer {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        &self.data[name]
    }
}

/// A credential that was planned, leased on paper and issued.
pub struct Issued {
    /// What its lease would hold.
    pub handle: Handle,
    /// What the engine would have decided.
    pub terms: Terms,
    /// Whether the lease could be renewed.
    pub renewable: bool,
    /// The answer's data.
    pub data: Value,
    /// Advice for the caller.
    pub warnings: Vec<String>,
}

/// For `unwrap_err`; the handle says which one it is.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({})", self.handle.as_json())
    }
}

impl Mounted {
    /// Mounts `backend`, which was opened on `host`.
    pub fn new(backend: Arc<dyn Backend>, host: &TestHost) -> Self {
        Self {
            routes: Arc::clone(&backend).routes(),
            backend,
            caller: Caller {
                display_name: "token-test".into(),
                entity_id: None,
            },
            host: host.clone(),
        }
    }

    /// `GET path`.
    pub async fn read(&self, path: &str) -> Result<Answer, BackendError> {
        self.read_with(path, Value::Null).await
    }

    /// `GET path` with a query, which reaches a backend like a body.
    pub async fn read_with(&self, path: &str, query: Value) -> Result<Answer, BackendError> {
        self.request(Operation::Read, path, query).await
    }

    /// `LIST path`.
    pub async fn list(&self, path: &str) -> Result<Answer, BackendError> {
        self.request(Operation::List, path, Value::Null).await
    }

    /// `POST path`.
    pub async fn write(&self, path: &str, body: Value) -> Result<Answer, BackendError> {
        self.request(Operation::Write, path, body).await
    }

    /// `PATCH path`.
    pub async fn patch(&self, path: &str, body: Value) -> Result<Answer, BackendError> {
        self.request(Operation::Patch, path, body).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Result<Answer, BackendError> {
        self.request(Operation::Delete, path, Value::Null).await
    }

    /// Any request that is answered without a lease. `body` is an object, or `null` for none.
    pub async fn request(
        &self,
        operation: Operation,
        path: &str,
        body: Value,
    ) -> Result<Answer, BackendError> {
        let (endpoint, call) = self.find(operation, path, body);
        match &endpoint.handler {
            Handler::Answer(run) => run(call).await.map(Answer::from),
            Handler::Plan(run) => match run(call).await? {
                Planned::Unleased(reply) => Ok(reply.into()),
                Planned::Leased(_) => panic!("{endpoint:?} gives a lease: call `issue` or `plan`"),
            },
            Handler::Login(_) => panic!("{endpoint:?} is a login: call `login`"),
        }
    }

    /// The decision of an issuing endpoint, with nothing done yet.
    pub async fn plan(
        &self,
        operation: Operation,
        path: &str,
        body: Value,
    ) -> Result<Planned, BackendError> {
        let (endpoint, call) = self.find(operation, path, body);
        match &endpoint.handler {
            Handler::Plan(run) => run(call).await,
            Handler::Answer(_) | Handler::Login(_) => panic!("{endpoint:?} does not plan"),
        }
    }

    /// `POST path` over the connection `peer`, where that is a login.
    pub async fn login(&self, path: &str, body: Value, peer: Peer) -> Result<Login, BackendError> {
        let (endpoint, mut call) = self.find(Operation::Write, path, body);
        call.peer = peer;
        match &endpoint.handler {
            Handler::Login(login) => (login.run)(call).await,
            Handler::Answer(_) | Handler::Plan(_) => panic!("{endpoint:?} is no login"),
        }
    }

    /// The name that a login claims, where its secret could be guessed.
    pub fn claimed(&self, path: &str, body: Value) -> Option<String> {
        let (endpoint, call) = self.find(Operation::Write, path, body);
        match &endpoint.handler {
            Handler::Login(login) => (login.claims)(&call.body),
            Handler::Answer(_) | Handler::Plan(_) => panic!("{endpoint:?} is no login"),
        }
    }

    /// Plans and issues, with the terms the engine would give.
    pub async fn issue(
        &self,
        operation: Operation,
        path: &str,
        body: Value,
    ) -> Result<Issued, BackendError> {
        let Planned::Leased(plan) = self.plan(operation, path, body).await? else {
            panic!("{operation:?} {path} gives no lease: call `request`");
        };
        let (handle, renewable, terms) =
            (plan.handle.clone(), plan.renewable, self.terms(plan.ttl));
        let credential = plan.issue(terms).await?;
        Ok(Issued {
            handle,
            terms,
            renewable,
            data: parse(credential.data.expose()),
            warnings: credential.warnings,
        })
    }

    /// The terms of a lease: the least of what was asked for, the role and the system allow.
    pub fn terms(&self, wish: TtlWish) -> Terms {
        let system = &self.host.system;
        let ttl = wish.asked.or(wish.default);
        let ttl = ttl.unwrap_or_else(|| system.default_ttl());
        let cap = wish.max.unwrap_or(Duration::MAX).min(system.max_ttl());
        self.lasting(ttl.min(cap))
    }

    /// Terms that last `ttl` from now.
    pub fn lasting(&self, ttl: Duration) -> Terms {
        Terms {
            ttl,
            ends_at: self.host.clock.now() + ttl,
        }
    }

    fn find(&self, operation: Operation, path: &str, body: Value) -> (&Endpoint<Handler>, Call) {
        let (endpoint, parameters) = match self.routes.find(operation, path) {
            Found::Endpoint(endpoint, parameters) => (endpoint, parameters),
            Found::OtherOperations(others) => panic!("{path} takes {others:?}, not {operation:?}"),
            Found::Nothing => panic!("no route matches {path}"),
        };
        let mut body = Body::new(match body {
            Value::Null => Map::new(),
            Value::Object(fields) => fields,
            other => panic!("a body is an object, not {other}"),
        });
        for (name, value) in parameters {
            body.set(name, value);
        }
        (endpoint, self.call(operation, body))
    }

    pub(crate) fn call(&self, operation: Operation, body: Body) -> Call {
        Call {
            operation,
            body,
            now: self.host.clock.now(),
            caller: self.caller.clone(),
            peer: Peer::default(),
        }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let (kind, bytes) = match reply.content {
            Content::Nothing => (Kind::Nothing, Vec::new()),
            Content::Data(data) => (Kind::Data, data.expose().to_vec()),
            Content::Absent(data) => (Kind::Absent, data.expose().to_vec()),
            Content::Raw { bytes, .. } => (Kind::Raw, bytes),
        };
        let data = match kind {
            Kind::Data | Kind::Absent => parse(&bytes),
            Kind::Nothing | Kind::Raw => Value::Null,
        };
        Self {
            kind,
            data,
            bytes,
            warnings: reply.warnings,
        }
    }
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("an answer is JSON")
}
