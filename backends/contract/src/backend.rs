//! [`Backend`], and what passes between it and the engine when a credential is planned, issued,
//! renewed and revoked.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::body::Body;
use crate::error::BackendError;
use crate::login::{Login, Peer, TokenParameters};
use crate::route::{Endpoint, Operation, Routes};
use crate::secret::Secret;
use crate::store::Store;
use crate::time::{Clock, Entropy};

/// A boxed future, as trait objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the engine lends a mount. A backend has no other way to the outside but its own upstream.
#[derive(Clone)]
pub struct Host {
    /// The mount's own sealed storage.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What the control plane knows and a backend may ask.
    pub system: Arc<dyn System>,
    /// The options the mount was enabled with (kv: `version`).
    pub options: BTreeMap<String, String>,
}

/// Questions a backend may ask of the control plane.
#[async_trait]
pub trait System: Send + Sync {
    /// A password made by the named password policy.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] where there is no such policy.
    async fn generate_password(&self, policy: &str) -> Result<Secret, BackendError>;

    /// The longest lease this mount may give.
    fn max_ttl(&self) -> Duration;

    /// The lease a role gives that says nothing.
    fn default_ttl(&self) -> Duration;
}

/// One request, already authorized, on its way to a typed handler.
pub struct Call {
    /// What is asked.
    pub operation: Operation,
    /// Path parameters, query and body.
    pub body: Body,
    /// When the request arrived.
    pub now: SystemTime,
    /// On whose behalf, for display names and templates.
    pub caller: Caller,
    /// Over which connection.
    pub peer: Peer,
}

/// Who asks, as far as a backend may know.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The token's display name, such as `token-ci` or `approle-web`.
    pub display_name: String,
    /// The entity's id, where the principal has one.
    pub entity_id: Option<String>,
}

/// A body of JSON that may hold secrets; it is revealed when the answer is written.
pub struct Json(Secret);

impl Json {
    /// Serializes `value` at once, so that no typed copy of a secret outlives the handler.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where `value` has no JSON form.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, BackendError> {
        serde_json::to_vec(value)
            .map(|bytes| Self(Secret::new(bytes)))
            .map_err(|_| BackendError::Internal("answer cannot be encoded".into()))
    }

    /// JSON text that was encoded earlier.
    pub fn from_secret(text: Secret) -> Self {
        Self(text)
    }

    /// The JSON text.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

/// What a handler answers. `T` is the type of its `data`, which OpenAPI describes; the engine, which
/// does not look inside, sees [`Reply<Untyped>`].
pub struct Reply<T: ?Sized = Untyped> {
    /// The answer's content.
    pub content: Content,
    /// Advice for whoever reads the answer.
    pub warnings: Vec<String>,
    shape: PhantomData<fn() -> Box<T>>,
}

/// Marks a [`Reply`] whose data is JSON of a shape no longer known.
pub enum Untyped {}

/// The content of an answer.
#[derive(Default)]
pub enum Content {
    /// Nothing to say: 204.
    #[default]
    Nothing,
    /// The `data` of the envelope: 200.
    Data(Json),
    /// The `data` of the envelope of something that is no longer there: 404 (a deleted version).
    Absent(Json),
    /// A body outside the envelope, such as a CRL in DER: 200.
    Raw {
        /// Its media type.
        content_type: &'static str,
        /// Its bytes; public by nature.
        bytes: Vec<u8>,
    },
}

impl<T: ?Sized> Reply<T> {
    /// An answer with nothing to say.
    pub fn nothing() -> Self {
        Self::of(Content::Nothing)
    }

    /// A public body outside the envelope.
    pub fn raw(content_type: &'static str, bytes: Vec<u8>) -> Self {
        Self::of(Content::Raw {
            content_type,
            bytes,
        })
    }

    /// The same answer with one more warning.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// The same answer without the type of its data.
    pub fn untyped(self) -> Reply {
        Reply {
            content: self.content,
            warnings: self.warnings,
            shape: PhantomData,
        }
    }

    fn of(content: Content) -> Self {
        Self {
            content,
            warnings: Vec::new(),
            shape: PhantomData,
        }
    }
}

impl<T: Serialize + ?Sized> Reply<T> {
    /// An answer with `data`.
    ///
    /// # Errors
    /// As [`Json::of`].
    pub fn data(value: &T) -> Result<Self, BackendError> {
        Ok(Self::of(Content::Data(Json::of(value)?)))
    }

    /// What is left to say of something that is no longer there: 404 with `data`.
    ///
    /// # Errors
    /// As [`Json::of`].
    pub fn absent(value: &T) -> Result<Self, BackendError> {
        Ok(Self::of(Content::Absent(Json::of(value)?)))
    }
}

impl Reply<Keys> {
    /// The names of a list; an empty list is [`BackendError::NotFound`], as the Vault API has it.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] where there are none.
    pub fn keys(keys: Vec<String>) -> Result<Self, BackendError> {
        if keys.is_empty() {
            return Err(BackendError::NotFound);
        }
        Self::data(&Keys { keys })
    }
}

/// The names that a list answers.
#[derive(Serialize, JsonSchema)]
pub struct Keys {
    /// In order; a deeper level ends in `/`.
    pub keys: Vec<String>,
}

/// Where and how a list goes on.
#[derive(Deserialize, JsonSchema)]
pub struct ListRequest {
    /// The level to list; empty for the top.
    #[serde(default)]
    pub path: String,
    /// Start after this name.
    pub after: Option<String>,
    /// At most this many names.
    pub limit: Option<usize>,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

/// No fields.
#[derive(Deserialize, JsonSchema)]
pub struct NoFields {}

/// Enough to revoke a credential, never enough to use one. Stored in the lease.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(Box<RawValue>);

impl Handle {
    /// Encodes a backend's own handle type.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where `value` has no JSON form.
    pub fn encode<T: Serialize>(value: &T) -> Result<Self, BackendError> {
        serde_json::value::to_raw_value(value)
            .map(Self)
            .map_err(|_| BackendError::Internal("handle cannot be encoded".into()))
    }

    /// Decodes it again.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where it is not of that type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BackendError> {
        serde_json::from_str(self.0.get())
            .map_err(|_| BackendError::Internal("lease handle is not this backend's".into()))
    }

    /// Its JSON, for the conformance suite to search for secrets.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

/// How long a lease may last, as far as the request and the role have an opinion. The engine takes
/// the least of all caps, the mount's and the system's included.
#[derive(Clone, Copy, Debug, Default)]
pub struct TtlWish {
    /// What the caller asks for.
    pub asked: Option<Duration>,
    /// What the role gives to a caller who does not ask.
    pub default: Option<Duration>,
    /// What the role allows at most, renewals included.
    pub max: Option<Duration>,
}

/// What the engine decided about a lease; it is durable before [`Plan::issue`] runs.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long the credential lasts from now.
    pub ttl: Duration,
    /// When it ends unless renewed. An upstream's own expiry is set to this.
    pub ends_at: SystemTime,
}

/// What issuing made.
pub struct Credential {
    /// The answer's `data`.
    pub data: Json,
    /// Advice for the caller.
    pub warnings: Vec<String>,
}

type Issue = Box<dyn FnOnce(Terms) -> BoxFuture<'static, Result<Credential, BackendError>> + Send>;

/// One credential, decided upon but not yet made: nothing outside knows of it.
///
/// **Lease first.** The engine makes [`Plan::handle`] durable before it runs [`Plan::issue`], so a crash
/// can strand a lease record but never a credential.
pub struct Plan {
    /// Enough to revoke what `issue` will make.
    pub handle: Handle,
    /// How long it may last.
    pub ttl: TtlWish,
    /// Whether the lease can be renewed.
    pub renewable: bool,
    issue: Issue,
}

impl Plan {
    /// A plan that `issue` will carry out. Names, serials and passwords are chosen already, so that
    /// carrying it out is all that touches the upstream.
    pub fn new<F, Fut>(handle: Handle, ttl: TtlWish, issue: F) -> Self
    where
        F: FnOnce(Terms) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Credential, BackendError>> + Send + 'static,
    {
        Self {
            handle,
            ttl,
            renewable: true,
            issue: Box::new(move |terms| Box::pin(issue(terms))),
        }
    }

    /// The same plan for a lease that cannot be renewed.
    #[must_use]
    pub fn not_renewable(mut self) -> Self {
        self.renewable = false;
        self
    }

    /// Makes the credential real. To be called once, after the lease is durable.
    ///
    /// # Errors
    /// [`BackendError::Refused`], [`BackendError::Unavailable`]: nothing was made.
    /// [`BackendError::Indeterminate`]: it may have been; the lease must be revoked.
    pub async fn issue(self, terms: Terms) -> Result<Credential, BackendError> {
        (self.issue)(terms).await
    }
}

/// What a planning handler decided: most credentials are leased, some need no lease. `T` is the type of
/// the answer's `data` either way.
pub enum Planned<T: ?Sized = Untyped> {
    /// A lease is made durable, then the plan is issued.
    Leased(Plan),
    /// The answer itself; nothing to revoke by lease (a certificate that its CRL revokes).
    Unleased(Reply<T>),
}

/// How a revocation ended. Both are success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It existed and was removed, with proof.
    Revoked,
    /// There was nothing to remove.
    AlreadyGone,
}

/// Whether the upstream still knows a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It exists.
    Present,
    /// It does not.
    Absent,
}

/// What revoking achieves; shown in responses, leases and documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Revocability {
    /// Ends access before `revoke` returns.
    Immediate,
    /// Ends access late, or only for those who look.
    BestEffort {
        /// Why, and how late.
        reason: String,
    },
    /// Access ends with the credential's own expiry.
    ExpiryOnly,
}

/// What serves an endpoint of a backend.
pub enum Handler {
    /// Answers; makes no leased credential.
    Answer(Box<dyn Fn(Call) -> BoxFuture<'static, Result<Reply, BackendError>> + Send + Sync>),
    /// Plans a credential, which the engine leases and then issues.
    Plan(Box<dyn Fn(Call) -> BoxFuture<'static, Result<Planned, BackendError>> + Send + Sync>),
    /// Finds out who the caller is; the engine makes the token.
    Login(LoginHandler),
}

/// Tells which name a login claims.
pub type Claims = Box<dyn Fn(&Body) -> Option<String> + Send + Sync>;

/// What serves a login.
pub struct LoginHandler {
    /// The name that the caller claims, where it could be guessing the secret that goes with it.
    pub claims: Claims,
    /// Finds out who the caller is.
    pub run: Box<dyn Fn(Call) -> BoxFuture<'static, Result<Login, BackendError>> + Send + Sync>,
}

/// The routes of a backend.
pub type BackendRoutes = Routes<Handler>;

impl BackendRoutes {
    /// Declares an endpoint that answers.
    pub fn answer<B, Request, Response, F, Fut>(
        &mut self,
        backend: &Arc<B>,
        operation: Operation,
        pattern: &'static str,
        summary: &'static str,
        handler: F,
    ) -> &mut Endpoint<Handler>
    where
        B: Send + Sync + 'static,
        Request: DeserializeOwned + JsonSchema,
        Response: JsonSchema + 'static,
        F: Fn(Arc<B>, Call, Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply<Response>, BackendError>> + Send + 'static,
    {
        let backend = Arc::clone(backend);
        let run = move |call: Call| -> BoxFuture<'static, Result<Reply, BackendError>> {
            match call.body.decode::<Request>() {
                Ok(request) => {
                    let answer = handler(Arc::clone(&backend), call, request);
                    Box::pin(async { answer.await.map(Reply::untyped) })
                }
                Err(error) => Box::pin(std::future::ready(Err(error.into()))),
            }
        };
        self.add::<Request, Response>(operation, pattern, summary, Handler::Answer(Box::new(run)))
    }

    /// Declares an endpoint that issues. It changes the world whatever its operation.
    pub fn plan<B, Request, Response, F, Fut>(
        &mut self,
        backend: &Arc<B>,
        operation: Operation,
        pattern: &'static str,
        summary: &'static str,
        handler: F,
    ) -> &mut Endpoint<Handler>
    where
        B: Send + Sync + 'static,
        Request: DeserializeOwned + JsonSchema,
        Response: JsonSchema + 'static,
        F: Fn(Arc<B>, Call, Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Planned<Response>, BackendError>> + Send + 'static,
    {
        let backend = Arc::clone(backend);
        let run = move |call: Call| -> BoxFuture<'static, Result<Planned, BackendError>> {
            match call.body.decode::<Request>() {
                Ok(request) => {
                    let planned = handler(Arc::clone(&backend), call, request);
                    Box::pin(async {
                        Ok(match planned.await? {
                            Planned::Leased(plan) => Planned::Leased(plan),
                            Planned::Unleased(reply) => Planned::Unleased(reply.untyped()),
                        })
                    })
                }
                Err(error) => Box::pin(std::future::ready(Err(error.into()))),
            }
        };
        let endpoint = self.add::<Request, Response>(
            operation,
            pattern,
            summary,
            Handler::Plan(Box::new(run)),
        );
        endpoint.effect = crate::route::Effect::Change;
        endpoint
    }
}

impl BackendRoutes {
    /// Declares a login: a write that anyone may make. `claims` is the name that the caller claims where
    /// its secret could be guessed (a user name, a role id): the engine locks a name out for a while after
    /// too many [`BackendError::LoginFailed`].
    pub fn login<B, Request, F, Fut>(
        &mut self,
        backend: &Arc<B>,
        pattern: &'static str,
        summary: &'static str,
        claims: fn(&Request) -> Option<&str>,
        handler: F,
    ) -> &mut Endpoint<Handler>
    where
        B: Send + Sync + 'static,
        Request: DeserializeOwned + JsonSchema + 'static,
        F: Fn(Arc<B>, Call, Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Login, BackendError>> + Send + 'static,
    {
        let backend = Arc::clone(backend);
        let run = move |call: Call| -> BoxFuture<'static, Result<Login, BackendError>> {
            match call.body.decode::<Request>() {
                Ok(request) => Box::pin(handler(Arc::clone(&backend), call, request)),
                Err(error) => Box::pin(std::future::ready(Err(error.into()))),
            }
        };
        let claims = move |body: &Body| {
            let request = body.decode::<Request>().ok()?;
            claims(&request).map(str::to_owned)
        };
        let handler = Handler::Login(LoginHandler {
            claims: Box::new(claims),
            run: Box::new(run),
        });
        let endpoint = self.add::<Request, ()>(Operation::Write, pattern, summary, handler);
        endpoint.access = crate::route::Access::Anyone;
        endpoint
    }
}

/// A configured instance of what can issue credentials. One per mount.
///
/// Planning handlers choose everything and touch nothing; [`Plan::issue`], [`Backend::renew`] and
/// [`Backend::revoke`] touch the upstream; [`Backend::maintain`] does what is due, and is called by the
/// engine's scheduler, never by a timer of the backend's own.
#[async_trait]
pub trait Backend: Send + Sync {
    /// What it answers to. Asked once, when it is mounted.
    fn routes(self: Arc<Self>) -> BackendRoutes;

    /// What revoking one of its leases achieves.
    fn revocability(&self) -> Revocability;

    /// Whether what a write would set exists already, which decides between the `create` and the
    /// `update` capability. A backend that does not tell the two apart says that it exists.
    async fn exists(&self, _path: &str) -> Result<bool, BackendError> {
        Ok(true)
    }

    /// Makes the credential last until `terms.ends_at`.
    async fn renew(&self, _handle: &Handle, _terms: Terms) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(
            "leases of this mount are not renewable".into(),
        ))
    }

    /// Ends the credential and proves it. Twice, or of something never issued, succeeds.
    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError>;

    /// Asks the upstream whether the credential still exists.
    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError>;

    /// Does what is due at `now` (rotation, CRL building, tidying) and says when to be called next.
    async fn maintain(&self, _now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        Ok(None)
    }

    /// Asks again, for the renewal of a token, what the role behind [`Login::renewal`] says about tokens.
    ///
    /// # Errors
    /// [`BackendError::LoginFailed`] where it would not let the caller in any more.
    async fn renew_login(&self, _renewal: &Handle) -> Result<TokenParameters, BackendError> {
        Err(BackendError::Unsupported(
            "tokens of this mount are not renewable".into(),
        ))
    }

    /// Releases connections. Called when the mount is disabled or the server stops.
    async fn close(&self) {}
}
