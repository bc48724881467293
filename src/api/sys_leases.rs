//! `sys/leases/*` and the older `sys/renew`, `sys/revoke`.
//!
//! A lease id is a name and no authority: a caller acts on leases of its own token or entity; on those
//! of others only with policy on the very path `sys/leases/<verb>/<lease id>`.

use std::time::Duration;

use daypass_contract::{Access, NoFields, Operation, Revocability};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::engine::{Answer, Body, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::lease::{LeaseId, LeaseRecord, QueueHealth};
use crate::policy::{Ask, Capability, decide};

/// Leases that are counted at most: reading a million keys takes a second.
const MOST_COUNTED: usize = 1_000_000;
/// Names that a list gives at most; narrow the prefix for the others.
const MOST_NAMES: usize = 100_000;

#[derive(Deserialize, JsonSchema)]
struct LeaseRequest {
    /// The lease; also as the rest of the path.
    lease_id: Option<String>,
    url_lease_id: Option<String>,
    /// How much longer, from now. The first period again if not given.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    increment: Option<Duration>,
    #[serde(rename = "sync", default)]
    _sync: bool,
}

#[derive(Deserialize, JsonSchema)]
struct PrefixRequest {
    #[serde(default)]
    prefix: String,
    /// Whether to answer when the leases are gone, and not when it is certain that they go.
    #[serde(default)]
    sync: bool,
    #[serde(rename = "list", default)]
    _list: bool,
}

#[derive(Serialize, JsonSchema)]
struct LeaseView {
    id: String,
    issue_time: String,
    expire_time: String,
    last_renewal: Option<String>,
    renewable: bool,
    ttl: i64,
    /// `active`, `revoking` or `irrevocable`.
    state: &'static str,
    /// What revoking it achieves; absent while its mount is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    revocability: Option<Revocability>,
    /// Why it could not be revoked yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<TroubleView>,
    /// The upstream is away since then; what ends meanwhile waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_away_since: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct TroubleView {
    attempts: u32,
    reason: String,
    since: String,
    next_try: String,
}

#[derive(Serialize, JsonSchema)]
struct Names {
    keys: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Count {
    lease_count: usize,
    counts: std::collections::BTreeMap<String, usize>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{List, Read, Write};
    routes
        .serve::<LeaseRequest, LeaseView, _, _>(
            Write,
            "sys/leases/lookup",
            "Describes a lease.",
            lookup,
        )
        .effect = daypass_contract::Effect::Observe;
    for pattern in ["sys/leases/lookup", "sys/leases/lookup/{prefix*}"] {
        routes
            .serve::<PrefixRequest, Names, _, _>(
                List,
                pattern,
                "Lists one level of lease ids below a prefix.",
                list,
            )
            .access = Access::Sudo;
    }
    for pattern in [
        "sys/leases/renew",
        "sys/leases/renew/{url_lease_id*}",
        "sys/renew",
        "sys/renew/{url_lease_id*}",
    ] {
        routes.serve::<LeaseRequest, (), _, _>(Write, pattern, "Renews a lease.", renew);
    }
    for pattern in [
        "sys/leases/revoke",
        "sys/leases/revoke/{url_lease_id*}",
        "sys/revoke",
        "sys/revoke/{url_lease_id*}",
    ] {
        routes.serve::<LeaseRequest, (), _, _>(Write, pattern, "Revokes a lease now.", revoke);
    }
    for pattern in [
        "sys/leases/revoke-prefix/{prefix*}",
        "sys/revoke-prefix/{prefix*}",
    ] {
        routes
            .serve::<PrefixRequest, (), _, _>(
                Write,
                pattern,
                "Revokes every lease whose id begins so.",
                revoke_prefix,
            )
            .access = Access::Sudo;
    }
    for pattern in [
        "sys/leases/revoke-force/{prefix*}",
        "sys/revoke-force/{prefix*}",
    ] {
        routes
            .serve::<PrefixRequest, (), _, _>(
                Write,
                pattern,
                "Forgets every lease whose id begins so, even where its credential cannot be revoked.",
                revoke_force,
            )
            .access = Access::Sudo;
    }
    routes.serve::<NoFields, Count, _, _>(
        Read,
        "sys/leases/count",
        "Counts the leases of each mount.",
        count,
    );
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/leases/tidy",
            "Makes every worker look at what is due; nothing else is needed.",
            |call, _| async move {
                call.engine()?.wake_queues();
                Ok(Answer::nothing())
            },
        )
        .access = Access::Sudo;
}

fn id_of(request: &LeaseRequest) -> Result<LeaseId, Failure> {
    request
        .url_lease_id
        .as_deref()
        .or(request.lease_id.as_deref())
        .filter(|id| !id.is_empty())
        .map(LeaseId::from_text)
        .ok_or_else(|| Failure::Invalid("field \"lease_id\": is required".into()))
}

/// The lease, if the caller may act on it. One that is not the caller's looks like one that is not there;
/// only who may act on any lease of that id is told that there is none.
async fn permitted(
    call: &SystemCall,
    verb: &str,
    id: &LeaseId,
) -> Result<Option<LeaseRecord>, Failure> {
    let (engine, principal) = (call.engine()?, call.principal()?);
    let record = engine.leases.get(id).await?;
    let own = match (&record, principal.anchor()) {
        (Some(record), anchor) => {
            let same_entity =
                record.entity_id.is_some() && record.entity_id == principal.record.entity_id;
            let below = match (&record.token, anchor) {
                (Some(owner), Some(caller)) => engine.tokens.descends(owner, caller).await?,
                _ => false,
            };
            same_entity || below
        }
        (None, _) => false,
    };
    let by_policy = || {
        let acl = engine.policies.acl(principal.policies());
        let path = format!("sys/leases/{verb}/{}", id.as_str());
        decide(
            &acl,
            &Ask {
                path: &path,
                capability: Capability::Update,
                sudo: false,
                fields: None,
                wrap_ttl: None,
            },
        )
        .is_ok()
    };
    if own || by_policy() {
        return Ok(record);
    }
    Err(not_found())
}

fn not_found() -> Failure {
    Failure::Invalid("lease not found, or not yours".into())
}

async fn lookup(call: SystemCall, request: LeaseRequest) -> Result<Answer, Failure> {
    let id = id_of(&request)?;
    let record = permitted(&call, "lookup", &id)
        .await?
        .ok_or_else(not_found)?;
    let mount = call.engine()?.mounts.by_id(&record.mount);
    let due = call.now >= record.ends_at || record.revoking;
    let away = mount
        .as_ref()
        .map(|mount| mount.queue.health())
        .and_then(|health| match health {
            QueueHealth::UpstreamAway { since } if due => Some(rfc3339(since)),
            _ => None,
        });
    let ttl = match record.ends_at.duration_since(call.now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(past) => -i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX),
    };
    Answer::flat(&LeaseView {
        id: id.as_str().to_owned(),
        issue_time: rfc3339(record.issued_at),
        expire_time: rfc3339(record.ends_at),
        last_renewal: record.renewed_at.map(rfc3339),
        renewable: record.renewable,
        ttl,
        state: record.state(call.now),
        revocability: mount.map(|mount| mount.backend.revocability()),
        upstream_away_since: away,
        trouble: record.trouble.as_ref().map(|trouble| TroubleView {
            attempts: trouble.attempts,
            reason: trouble.reason.clone(),
            since: rfc3339(trouble.since),
            next_try: rfc3339(record.due_at()),
        }),
    })
}

async fn list(call: SystemCall, request: PrefixRequest) -> Result<Answer, Failure> {
    let prefix = request.prefix.trim_matches('/');
    let prefix = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    };
    let names = call.engine()?.leases.list(&prefix, MOST_NAMES).await?;
    Answer::keys(&names)
}

async fn renew(call: SystemCall, request: LeaseRequest) -> Result<Answer, Failure> {
    let id = id_of(&request)?;
    permitted(&call, "renew", &id)
        .await?
        .ok_or_else(not_found)?;
    let (_, lease) = call.engine()?.renew_lease(&id, request.increment).await?;
    let answer = Answer::of(Body::Lease(daypass_contract::Json::of(&())?, lease));
    Ok(answer)
}

async fn revoke(call: SystemCall, request: LeaseRequest) -> Result<Answer, Failure> {
    let id = id_of(&request)?;
    // Revoking what is gone succeeds, so that it can be repeated.
    if permitted(&call, "revoke", &id).await?.is_none() {
        return Ok(Answer::nothing());
    }
    revoked(&*call.engine()?, &id).await
}

async fn revoked(engine: &Engine, id: &LeaseId) -> Result<Answer, Failure> {
    Ok(match engine.revoke_lease(id).await? {
        None => Answer::nothing(),
        Some(reason) => Answer::of(Body::Accepted).warn(format!(
            "the lease could not be revoked yet and is retried: {reason}"
        )),
    })
}

async fn revoke_prefix(call: SystemCall, request: PrefixRequest) -> Result<Answer, Failure> {
    let (engine, prefix) = (call.engine()?, prefix_of(&request)?);
    if !request.sync {
        engine.revoke_prefix(&prefix).await?;
        return Ok(Answer::nothing());
    }
    Ok(match Box::pin(engine.revoke_prefix_now(&prefix)).await? {
        None => Answer::nothing(),
        Some(reason) => Answer::of(Body::Accepted).warn(format!(
            "not all of the leases could be revoked yet; they are retried: {reason}"
        )),
    })
}

async fn revoke_force(call: SystemCall, request: PrefixRequest) -> Result<Answer, Failure> {
    let forgotten = call.engine()?.revoke_force(&prefix_of(&request)?).await?;
    Ok(match forgotten {
        0 => Answer::nothing(),
        count => Answer::nothing().warn(format!(
            "{count} leases were forgotten although their credentials may still exist; the audit log names them"
        )),
    })
}

/// A prefix ends at a segment: `database/creds/a` must not take `database/creds/ab` along.
fn prefix_of(request: &PrefixRequest) -> Result<String, Failure> {
    match request.prefix.trim_matches('/') {
        "" => Err(Failure::Invalid("field \"prefix\": is required".into())),
        prefix => Ok(format!("{prefix}/")),
    }
}

async fn count(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let mut counts = std::collections::BTreeMap::new();
    let mut left = MOST_COUNTED;
    for mount in engine.mounts.all() {
        let record = mount.record();
        let count = engine.leases.count(&record.id, left).await?;
        left -= count;
        counts.insert(format!("{}/", record.path), count);
    }
    let answer = Answer::data(&Count {
        lease_count: counts.values().sum(),
        counts,
    })?;
    Ok(if left > 0 {
        answer
    } else {
        answer.warn(format!(
            "there are more: counting ends at {MOST_COUNTED} leases"
        ))
    })
}
