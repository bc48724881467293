//! The one way through: principal → mount → decision → record → work → record → answer.

use std::sync::Arc;

use daypass_contract::route::{Endpoint, Found};
use daypass_contract::{
    Access, Body as Fields, Call, Caller, Effect, Handler, Operation, Planned, Source, async_trait,
};
use serde_json::{Map, Value};

use super::answer::{Answer, Body, Failure, Request};
use super::mounts::Mount;
use super::panics::{Panicked, caught};
use super::plane::{ControlPlane, Engine};
use super::system::{SystemCall, SystemHandler};
use super::wrap::wrappable;
use crate::audit::{self, AuditError, AuditLog, Kind, Position};
use crate::identity::{Principal, Removal, Spent, TokenId};
use crate::lease::LeaseId;
use crate::policy::{Acl, Ask, Capability, Denial, Grant, decide, decide_public};
use crate::storage::{First, writing_after};

/// What a request leads to.
enum Target {
    System,
    Mount(Arc<Mount>, String),
    Nowhere,
}

/// What serves it, found in the table that stays where it is.
enum Work<'a> {
    System(&'a Endpoint<SystemHandler>),
    Backend(&'a Arc<Mount>, &'a Endpoint<Handler>),
}

impl Work<'_> {
    fn access(&self) -> Access {
        match self {
            Self::System(endpoint) => endpoint.access,
            Self::Backend(_, endpoint) => endpoint.access,
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::System(endpoint) => endpoint.effect,
            Self::Backend(_, endpoint) => endpoint.effect,
        }
    }

    /// Whether it may turn out that nothing is to be stored, as with a login for a batch token. The store
    /// then waits for the record of the request where something is; and where nothing is, that record is
    /// made durable together with the outcome's, before the answer, which is all that changes the world.
    fn may_write_nothing(&self) -> bool {
        matches!(self, Self::Backend(_, endpoint) if matches!(endpoint.handler, Handler::Login(_)))
    }

    /// What anybody may ask for is not kept for them: only who is somebody, or becomes it by a login, may fill
    /// the store.
    fn may_be_wrapped(&self) -> bool {
        self.access() != Access::Anyone || self.may_write_nothing()
    }

    fn unknown_fields(&self, fields: &Map<String, Value>) -> Vec<String> {
        match self {
            Self::System(endpoint) => endpoint.unknown_fields(fields.keys()),
            Self::Backend(_, endpoint) => endpoint.unknown_fields(fields.keys()),
        }
    }
}

/// The record of a request, which may not be on the disk yet.
struct Recorded {
    audit: Arc<AuditLog>,
    position: Position,
}

#[async_trait]
impl First for Recorded {
    async fn durable(&self) -> Result<(), Source> {
        Ok(self.audit.durable(self.position).await?)
    }
}

/// What the audit log says of a request, gathered on the way.
struct Trail {
    id: String,
    operation: Operation,
    path: String,
    mount_point: Option<String>,
    mount_type: Option<String>,
    mount_accessor: Option<String>,
    remote: Option<String>,
    principal: Option<Principal>,
    data: Option<audit::HashedJson>,
    accessor: Option<audit::Hashed>,
    token: Option<audit::Hashed>,
}

impl Trail {
    fn new(request: &Request, principal: Option<&Principal>, hasher: &audit::Hasher) -> Self {
        let accessor = principal
            .and_then(|principal| principal.token.as_ref())
            .map(TokenId::accessor);
        // serde_json writes a map of values without fail.
        let fields = (!request.fields.is_empty())
            .then(|| serde_json::to_vec(&request.fields).unwrap_or_default());
        Self {
            id: request.id.clone(),
            operation: request.operation,
            path: request.path.clone(),
            mount_point: None,
            mount_type: None,
            mount_accessor: None,
            remote: request.peer.address.map(|address| address.to_string()),
            principal: principal.cloned(),
            data: fields.map(|fields| hasher.hash_json(&fields, &[])),
            accessor: accessor.map(|accessor| hasher.hash(accessor.as_str().as_bytes())),
            token: request
                .token
                .as_ref()
                .map(|token| hasher.hash(token.expose())),
        }
    }

    fn auth(&self) -> Option<audit::Principal<'_>> {
        let Some(principal) = &self.principal else {
            // A token that opens nothing is still worth finding in the log.
            return self.token.as_ref().map(|token| audit::Principal {
                client_token: Some(token),
                ..Default::default()
            });
        };
        Some(audit::Principal {
            display_name: &principal.record.display_name,
            client_token: self.token.as_ref(),
            accessor: self.accessor.as_ref(),
            policies: principal.policies().into(),
            entity_id: principal.record.entity_id.as_deref(),
            token_type: Some(principal.kind().as_str()),
            delegation: audit::Names::default(),
        })
    }

    fn request(&self) -> audit::Request<'_> {
        audit::Request {
            id: &self.id,
            operation: verb(self.operation),
            path: &self.path,
            mount_point: self.mount_point.as_deref(),
            mount_type: self.mount_type.as_deref(),
            mount_accessor: self.mount_accessor.as_deref(),
            remote_address: self.remote.as_deref(),
            data: self.data.as_ref(),
            ..Default::default()
        }
    }
}

impl ControlPlane {
    /// Serves one request. It leaves a record whatever comes of it.
    ///
    /// Work that changes the world runs on a task of its own: a caller that hangs up abandons the
    /// answer, not the work.
    pub async fn serve(self: &Arc<Self>, request: Request) -> Result<Answer, Failure> {
        self.serve_holding(request, ()).await
    }

    /// The same; `held` is dropped when the work is done, whether or not anybody still waits for it.
    pub async fn serve_holding<Held: Send + 'static>(
        self: &Arc<Self>,
        request: Request,
        held: Held,
    ) -> Result<Answer, Failure> {
        let plane = Arc::clone(self);
        // Reads never leave this task, but for those whose answer is kept for somebody.
        let reads = matches!(request.operation, Operation::Read | Operation::List);
        if reads && request.wrap_ttl.is_none() && !plane.issues(&request) {
            let answer = plane.run(request).await;
            drop(held);
            return answer;
        }
        let work = self.tasks.spawn(async move {
            let answer = plane.run(request).await;
            drop(held);
            answer
        });
        work.await
            .unwrap_or_else(|error| Err(Failure::Internal(format!("request failed: {error}"))))
    }

    /// Whether a read in form is an issuance in fact.
    fn issues(&self, request: &Request) -> bool {
        let Some(engine) = self.engine().ok() else {
            return false;
        };
        let Some((mount, rest)) = engine.mounts.find(&request.path) else {
            return false;
        };
        matches!(mount.routes.find(request.operation, rest),
            Found::Endpoint(endpoint, _) if endpoint.effect == Effect::Change)
    }

    async fn run(self: Arc<Self>, request: Request) -> Result<Answer, Failure> {
        let engine = self.engine().ok();
        self.serve_with(engine, request).await
    }

    /// Serves a request with an engine in hand, which may not be published yet.
    pub(super) async fn serve_with(
        self: &Arc<Self>,
        engine: Option<Arc<Engine>>,
        mut request: Request,
    ) -> Result<Answer, Failure> {
        let target = match &engine {
            _ if is_system(&request.path) => Target::System,
            Some(engine) => match engine.mounts.find(&request.path) {
                Some((mount, rest)) if !mount.record().leaving => {
                    Target::Mount(mount, rest.to_owned())
                }
                _ => Target::Nowhere,
            },
            None => Target::Nowhere,
        };
        let hasher = self.audit.hasher();
        let authenticated = match (&engine, &request.token) {
            (Some(engine), Some(token)) => engine.tokens.authenticate(token).await,
            _ => Ok(None),
        };
        let principal = match authenticated {
            Ok(Some(principal)) => match &engine {
                Some(engine) => engine.admit(principal, &request.peer).await,
                None => Ok(None),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
        };
        let principal = match principal {
            Ok(principal) => principal,
            Err(error) => {
                let trail = Trail::new(&request, None, &hasher);
                return Err(self.refused(&trail, error, None));
            }
        };
        let mut trail = Trail::new(&request, principal.as_ref(), &hasher);
        let found = match &target {
            Target::System => {
                trail.mount_type = Some("system".to_owned());
                named(
                    self.system.find(request.operation, &request.path),
                    Work::System,
                )
            }
            Target::Mount(mount, rest) => {
                let record = mount.record();
                trail.mount_point = Some(format!("{}/", record.path));
                trail.mount_type = Some(record.kind.clone());
                trail.mount_accessor = Some(record.accessor.clone());
                named(mount.routes.find(request.operation, rest), |endpoint| {
                    Work::Backend(mount, endpoint)
                })
            }
            Target::Nowhere => Err(None),
        };
        let (work, parameters) = match found {
            Ok(found) => found,
            Err(others) => {
                let failure =
                    Self::refuse_unknown(engine.as_deref(), principal.as_ref(), &request, others);
                return Err(self.refused(&trail, failure, None));
            }
        };
        let decided = match work.access() {
            Access::Anyone => match &work {
                Work::System(endpoint) => decide_public(endpoint, &request.path),
                Work::Backend(_, endpoint) => decide_public(endpoint, &request.path),
            }
            .map_err(Some),
            access => {
                let Some(engine) = &engine else {
                    let failure = self.closed().await;
                    return Err(self.refused(&trail, failure, None));
                };
                match self
                    .decide(engine, principal.as_ref(), &work, access, &request)
                    .await
                {
                    Ok(decided) => decided,
                    Err(failure) => return Err(self.refused(&trail, failure, None)),
                }
            }
        };
        let grant = match decided {
            Ok(grant) => grant,
            Err(denial) => return Err(self.refused(&trail, Failure::Denied, denial.as_ref())),
        };
        if let Err(failure) = self.within_quotas(engine.as_deref(), &request) {
            return Err(self.refused(&trail, failure, None));
        }
        let spent = match (&engine, &principal) {
            (Some(engine), Some(principal)) if work.access() != Access::Anyone => {
                engine.tokens.spend(principal).await
            }
            _ => Ok(Spent::Unlimited),
        };
        let spent = match spent {
            Ok(Spent::Refused) => return Err(self.refused(&trail, Failure::Denied, None)),
            Ok(spent) => spent,
            Err(error) => return Err(self.refused(&trail, error.into(), None)),
        };
        let wrap = match request.wrap_ttl {
            Some(ttl) if wrappable(request.operation) && work.may_be_wrapped() => {
                Some((request.path.clone(), ttl))
            }
            _ => None,
        };
        // An answer that is kept changes the world as well.
        let changes = work.effect() == Effect::Change || wrap.is_some();
        let mut unsynced = None;
        if changes && request.status_only {
            let failure = Failure::WrongOperation("a read that issues; HEAD does not".into());
            self.record_refusal(&trail, &failure, None)?;
            return Err(failure);
        }
        if changes {
            let policies: Vec<&str> = grant.policies().collect();
            let position = self.audit.append(
                Kind::Request,
                &audit::RequestRecord {
                    auth: trail.auth(),
                    request: trail.request(),
                    decision: Some(audit::Decision {
                        allowed: true,
                        policies: (&policies[..]).into(),
                        ..Default::default()
                    }),
                    error: None,
                },
            )?;
            if work.may_write_nothing() && wrap.is_none() {
                let audit = Arc::clone(&self.audit);
                unsynced = Some(Recorded { audit, position });
            } else {
                self.audit.durable(position).await?;
            }
        }
        let unknown = work.unknown_fields(&request.fields);
        for (name, value) in parameters {
            request.fields.insert(name.to_owned(), value.into());
        }
        // A handler that panics fails this request, which still gets its record and its answer.
        // Boxed, because each of the futures around it would carry it twice, and move it.
        let working =
            Box::pin(self.work(engine.as_ref(), &work, &grant, principal.as_ref(), request));
        let caught = match unsynced {
            Some(record) => writing_after(Arc::new(record), caught(working)).await,
            None => caught(working).await,
        };
        let mut result =
            caught.unwrap_or_else(|Panicked| Err(Failure::Internal("the handler panicked".into())));
        if let (
            Spent::Last,
            Some(engine),
            Ok(Answer {
                body: Body::Lease(_, lease),
                ..
            }),
        ) = (spent, &engine, &result)
        {
            engine.revoke_unseen(&LeaseId::from_text(&lease.id)).await;
            result = Err(Failure::Invalid(
                "this was the token's last use, so the lease ended with it: use a token with uses left".into(),
            ));
        }
        if let Ok(answer) = &mut result
            && !unknown.is_empty()
        {
            answer.warnings.push(format!(
                "Endpoint ignored these unrecognized parameters: [{}]",
                unknown.join(" ")
            ));
        }
        if let (Some((path, ttl)), Some(engine)) = (wrap, &engine)
            && let Ok(answer) = result
        {
            result = engine.wrap(answer, &path, ttl).await;
        }
        if let Err(failure @ Failure::Internal(_)) = &result {
            tracing::error!(request = trail.id, path = trail.path, %failure, "request failed");
        }
        if let Err(error) = self
            .record_outcome(&trail, &grant, &result, &hasher, changes)
            .await
        {
            // Nobody will know of it, so nobody may have it.
            if let (Some(engine), Ok(answer)) = (&engine, &result) {
                engine.undo_unseen(answer).await;
            }
            return Err(error.into());
        }
        if let (Spent::Last, Some(engine), Some(id)) =
            (spent, &engine, principal.and_then(|p| p.token))
        {
            engine.revoke_token(&id, Removal::WithChildren).await?;
        }
        result
    }

    /// Counts a request that somebody else makes against the rate limits.
    fn within_quotas(&self, engine: Option<&Engine>, request: &Request) -> Result<(), Failure> {
        if request.own {
            return Ok(());
        }
        let address = request.peer.address.map(|address| address.ip());
        self.quotas.check(&request.path, address)?;
        engine.map_or(Ok(()), |engine| engine.quotas.check(&request.path, address))
    }

    /// Policy's answer. `Err` is trouble on the way to one.
    async fn decide(
        &self,
        engine: &Engine,
        principal: Option<&Principal>,
        work: &Work<'_>,
        access: Access,
        request: &Request,
    ) -> Result<Result<Grant, Option<Denial>>, Failure> {
        let Some(principal) = principal else {
            return Ok(Err(None));
        };
        let acl = engine.policies.acl(principal.policies());
        let capability = match request.operation {
            Operation::Read => Capability::Read,
            Operation::List => Capability::List,
            Operation::Patch => Capability::Patch,
            Operation::Delete => Capability::Delete,
            Operation::Write => self.write_capability(&acl, work, request).await?,
        };
        let ask = Ask {
            path: &request.path,
            capability,
            sudo: access == Access::Sudo,
            fields: Some(&request.fields),
            wrap_ttl: request.wrap_ttl,
        };
        Ok(decide(&acl, &ask).map_err(Some))
    }

    /// A write needs `create` where its target does not exist yet, and `update` where it does. The
    /// backend is asked only where the difference matters.
    async fn write_capability(
        &self,
        acl: &Acl,
        work: &Work<'_>,
        request: &Request,
    ) -> Result<Capability, Failure> {
        let capabilities = acl.granted(&request.path);
        if capabilities.contains(Capability::Create) != capabilities.contains(Capability::Update)
            && let Work::Backend(mount, _) = work
        {
            let path = request
                .path
                .strip_prefix(&mount.record().path)
                .unwrap_or(&request.path);
            if !mount.backend.exists(path.trim_start_matches('/')).await? {
                return Ok(Capability::Create);
            }
        }
        Ok(Capability::Update)
    }

    async fn work(
        self: &Arc<Self>,
        engine: Option<&Arc<Engine>>,
        work: &Work<'_>,
        grant: &Grant,
        principal: Option<&Principal>,
        request: Request,
    ) -> Result<Answer, Failure> {
        let now = self.clock.now();
        let body = Fields::new(request.fields);
        match work {
            Work::System(endpoint) => {
                let call = SystemCall {
                    plane: Arc::clone(self),
                    token: request.token,
                    principal: principal.cloned(),
                    operation: request.operation,
                    body,
                    now,
                    wrap_ttl: request.wrap_ttl,
                    peer: request.peer,
                };
                (endpoint.handler)(call).await
            }
            Work::Backend(mount, endpoint) => {
                let engine = engine.ok_or(Failure::Sealed)?;
                let _entered = mount.enter()?;
                let caller = Caller {
                    display_name: principal
                        .map_or_else(String::new, |p| p.record.display_name.clone()),
                    entity_id: principal.and_then(|p| p.record.entity_id.clone()),
                };
                let call = Call {
                    operation: request.operation,
                    body,
                    now,
                    caller,
                    peer: request.peer,
                };
                match &endpoint.handler {
                    Handler::Answer(answer) => Ok(answer(call).await?.into()),
                    Handler::Plan(plan) => match plan(call).await? {
                        Planned::Unleased(reply) => Ok(reply.into()),
                        Planned::Leased(plan) => {
                            Box::pin(engine.issue(grant, principal, mount, plan)).await
                        }
                    },
                    Handler::Login(login) => {
                        Box::pin(engine.login(grant, mount, login, call)).await
                    }
                }
            }
        }
    }

    /// What is said of a path that leads nowhere: only to a principal that might go there.
    fn refuse_unknown(
        engine: Option<&Engine>,
        principal: Option<&Principal>,
        request: &Request,
        others: Option<Vec<Operation>>,
    ) -> Failure {
        let Some(engine) = engine else {
            return Failure::Sealed;
        };
        let Some(principal) = principal else {
            return Failure::Denied;
        };
        let acl = engine.policies.acl(principal.policies());
        if acl.granted(&request.path).iter().next().is_none() {
            return Failure::Denied;
        }
        // Not a 404: who asks for a secret would take it for deleted.
        if let Some((mount, _)) = engine.mounts.find(&request.path)
            && let Some(reason) = &mount.unopened
        {
            return Failure::Unavailable(format!("the mount does not open: {reason}"));
        }
        match others {
            Some(others) => {
                let names: Vec<&str> = others.into_iter().map(verb).collect();
                Failure::WrongOperation(names.join(", "))
            }
            None => Failure::NoRoute(request.path.clone()),
        }
    }

    /// Why there is no engine.
    async fn closed(&self) -> Failure {
        match self.seal.status().await {
            Ok(status) if !status.initialized => Failure::NotInitialized,
            _ => Failure::Sealed,
        }
    }

    /// The record of a request that was served, durable where it changed something.
    async fn record_outcome(
        &self,
        trail: &Trail,
        grant: &Grant,
        result: &Result<Answer, Failure>,
        hasher: &audit::Hasher,
        changes: bool,
    ) -> Result<(), AuditError> {
        let position = self.record_answer(trail, grant, result, hasher)?;
        if changes {
            self.audit.durable(position).await?;
        }
        Ok(())
    }

    /// The record of a request that was served, well or not.
    fn record_answer(
        &self,
        trail: &Trail,
        grant: &Grant,
        result: &Result<Answer, Failure>,
        hasher: &audit::Hasher,
    ) -> Result<Position, AuditError> {
        let policies: Vec<&str> = grant.policies().collect();
        let error = result.as_ref().err().map(ToString::to_string);
        let answer = result.as_ref().ok();
        let data = answer
            .and_then(Answer::json)
            .map(|json| hasher.hash_json(json.expose(), &[]));
        let lease = answer.and_then(|answer| match &answer.body {
            Body::Lease(_, lease) => Some(audit::Leased {
                lease_id: &lease.id,
            }),
            _ => None,
        });
        let made = answer.and_then(|answer| match &answer.body {
            Body::Auth(auth) => Some((
                auth,
                hasher.hash(auth.client_token.expose()),
                hasher.hash(auth.accessor.as_bytes()),
            )),
            _ => None,
        });
        let auth = made
            .as_ref()
            .map(|(auth, token, accessor)| audit::Principal {
                client_token: Some(token),
                accessor: Some(accessor),
                policies: (&auth.policies).into(),
                token_type: Some(auth.token_type),
                ..Default::default()
            });
        let wrapped = answer.and_then(|answer| match &answer.body {
            Body::Wrapped(wrap) => Some((
                wrap,
                hasher.hash(wrap.token.expose()),
                hasher.hash(wrap.accessor.as_bytes()),
            )),
            _ => None,
        });
        let wrap_info = wrapped
            .as_ref()
            .map(|(wrap, token, accessor)| audit::WrapInfo {
                token,
                accessor,
                ttl: wrap.ttl.as_secs(),
                creation_path: &wrap.creation_path,
            });
        self.audit.append(
            Kind::Response,
            &audit::ResponseRecord {
                auth: trail.auth(),
                request: trail.request(),
                decision: Some(audit::Decision {
                    allowed: true,
                    policies: (&policies[..]).into(),
                    ..Default::default()
                }),
                response: audit::Response {
                    status: outcome(result),
                    secret: lease,
                    auth,
                    wrap_info,
                    data: data.as_ref(),
                    ..Default::default()
                },
                error: error.as_deref(),
            },
        )
    }

    /// Records a request that could not be read far enough to be served, and gives what to answer.
    pub fn refuse(&self, request: &Request, failure: Failure) -> Failure {
        let trail = Trail::new(request, None, &self.audit.hasher());
        self.refused(&trail, failure, None)
    }

    /// Records a request that is not served, and gives what to answer.
    fn refused(&self, trail: &Trail, failure: Failure, denial: Option<&Denial>) -> Failure {
        match self.record_refusal(trail, &failure, denial) {
            Ok(()) => failure,
            Err(error) => error.into(),
        }
    }

    /// The record of a request that was not served.
    fn record_refusal(
        &self,
        trail: &Trail,
        failure: &Failure,
        denial: Option<&Denial>,
    ) -> Result<(), AuditError> {
        let (error, reason) = (
            failure.to_string(),
            denial.map(|denial| denial.reason.to_string()),
        );
        let decision = matches!(failure, Failure::Denied).then(|| audit::Decision {
            allowed: false,
            policies: denial
                .map(|denial| (&denial.policies).into())
                .unwrap_or_default(),
            reason: Some(
                reason
                    .as_deref()
                    .unwrap_or("no valid token, or none of its uses is left"),
            ),
            ..Default::default()
        });
        self.audit.append(
            Kind::Response,
            &audit::ResponseRecord {
                auth: trail.auth(),
                request: trail.request(),
                decision,
                response: audit::Response {
                    status: failure.status(),
                    ..Default::default()
                },
                error: Some(&error),
            },
        )?;
        Ok(())
    }
}

/// The status an answer will have.
fn outcome(result: &Result<Answer, Failure>) -> u16 {
    match result {
        Ok(answer) => answer.status(),
        Err(failure) => failure.status(),
    }
}

/// Whether a path belongs to the control plane itself.
fn is_system(path: &str) -> bool {
    path.starts_with("auth/token/")
        || ["sys", "cubbyhole", "identity"].contains(&path.split('/').next().unwrap_or_default())
}

type Served<'a> = (Work<'a>, daypass_contract::route::Parameters);

fn named<'a, H>(
    found: Found<'a, H>,
    work: impl FnOnce(&'a Endpoint<H>) -> Work<'a>,
) -> Result<Served<'a>, Option<Vec<Operation>>> {
    match found {
        Found::Endpoint(endpoint, parameters) => Ok((work(endpoint), parameters)),
        Found::OtherOperations(others) => Err(Some(others)),
        Found::Nothing => Err(None),
    }
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::List => "list",
        Operation::Write => "update",
        Operation::Patch => "patch",
        Operation::Delete => "delete",
    }
}
