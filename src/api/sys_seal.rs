//! `sys/init`, `sys/seal-status`, `sys/unseal`, `sys/seal`, `sys/rotate`, `sys/key-status`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{Access, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::storage::seal::{SealError, SealStatus, parse_share};

#[derive(Deserialize, JsonSchema)]
struct InitRequest {
    /// How many shares the root key is split into.
    secret_shares: Option<usize>,
    /// How many of them unseal.
    secret_threshold: Option<usize>,
    /// Sent by clients that know auto-unseal; with a key file there are no recovery shares.
    #[serde(rename = "recovery_shares")]
    _recovery_shares: Option<u8>,
    #[serde(rename = "recovery_threshold")]
    _recovery_threshold: Option<u8>,
    #[serde(rename = "stored_shares")]
    _stored_shares: Option<u8>,
    pgp_keys: Option<Vec<String>>,
    root_token_pgp_key: Option<String>,
    #[serde(rename = "recovery_pgp_keys")]
    _recovery_pgp_keys: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
struct Initialized {
    initialized: bool,
}

#[derive(Serialize, JsonSchema)]
struct InitAnswer {
    /// The shares in hex.
    #[serde(serialize_with = "reveal_all")]
    keys: Vec<Secret>,
    /// The same in base64.
    #[serde(serialize_with = "reveal_all")]
    keys_base64: Vec<Secret>,
    /// A token that may do everything. Revoke it when others are set up. Empty where it could not be made;
    /// the server's log then says why.
    #[serde(serialize_with = "daypass_contract::reveal")]
    root_token: Secret,
}

fn reveal_all<S: serde::Serializer>(secrets: &[Secret], serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::Error as _;
    let texts: Option<Vec<&str>> = secrets.iter().map(Secret::expose_str).collect();
    serializer.collect_seq(texts.ok_or_else(|| S::Error::custom("share is not text"))?)
}

#[derive(Deserialize, JsonSchema)]
struct UnsealRequest {
    /// One share, in hex or base64.
    key: Option<Secret>,
    /// Forget the shares given so far.
    #[serde(default)]
    reset: bool,
    #[serde(default, rename = "migrate")]
    _migrate: bool,
}

/// Where the seal stands.
#[derive(Serialize, JsonSchema)]
struct StatusView {
    #[serde(rename = "type")]
    kind: String,
    initialized: bool,
    sealed: bool,
    t: u8,
    n: u8,
    progress: usize,
    nonce: String,
    version: &'static str,
    build_date: &'static str,
    migration: bool,
    recovery_seal: bool,
    storage_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct KeyStatusView {
    term: u32,
    install_time: String,
    encryptions: u64,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Read, Write};
    routes
        .serve::<NoFields, Initialized, _, _>(
            Read,
            "sys/init",
            "Tells whether the server is initialized.",
            initialized,
        )
        .access = Access::Anyone;
    routes
        .serve::<InitRequest, InitAnswer, _, _>(
            Write,
            "sys/init",
            "Initializes the server once: makes its keys, its shares and the first root token.",
            init,
        )
        .access = Access::Anyone;
    routes
        .serve::<NoFields, StatusView, _, _>(
            Read,
            "sys/seal-status",
            "Tells where the seal stands.",
            seal_status,
        )
        .access = Access::Anyone;
    routes
        .serve::<UnsealRequest, StatusView, _, _>(
            Write,
            "sys/unseal",
            "Takes one share towards unsealing.",
            unseal,
        )
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/seal",
            "Wipes the keys: nothing is readable until unsealed.",
            seal,
        )
        .access = Access::Sudo;
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/rotate",
            "Adds a data key; what is written from now on uses it.",
            rotate,
        )
        .access = Access::Sudo;
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/rotate/keyring",
            "The same as sys/rotate.",
            rotate,
        )
        .access = Access::Sudo;
    routes.serve::<NoFields, KeyStatusView, _, _>(
        Read,
        "sys/key-status",
        "Describes the data key in use.",
        key_status,
    );
}

async fn initialized(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let initialized = call.plane.seal.status().await?.initialized;
    Answer::plain(200, &Initialized { initialized })
}

async fn init(call: SystemCall, request: InitRequest) -> Result<Answer, Failure> {
    if request.pgp_keys.is_some_and(|keys| !keys.is_empty())
        || request
            .root_token_pgp_key
            .is_some_and(|key| !key.is_empty())
    {
        return Err(Failure::Unsupported(
            "shares are not encrypted with PGP here: leave pgp_keys out".into(),
        ));
    }
    let by_itself = call.plane.seal.opens_by_itself();
    let shares = request
        .secret_shares
        .unwrap_or(if by_itself { 0 } else { 5 });
    let threshold = request
        .secret_threshold
        .unwrap_or(if shares == 5 { 3 } else { shares });
    let made = call.plane.seal.init(shares, threshold).await?;
    // Whatever fails from here on, the shares exist only in this answer and must not be lost with it.
    let root_token = match first_token(&call).await {
        Ok(token) => token,
        Err(failure) => {
            tracing::error!(%failure, "the server is initialized, but the first root token could not be made");
            Secret::new([])
        }
    };
    if !by_itself {
        // Whoever holds the shares unseals: the server does not stay open by itself.
        call.plane.close().await;
    }
    let text = |encode: fn(&[u8]) -> String| {
        made.shares
            .iter()
            .map(|share| Secret::new(encode(share.expose())))
            .collect()
    };
    Answer::plain(
        200,
        &InitAnswer {
            keys: text(|bytes| hex::encode(bytes)),
            keys_base64: text(|bytes| STANDARD.encode(bytes)),
            root_token,
        },
    )
}

async fn first_token(call: &SystemCall) -> Result<Secret, Failure> {
    let engine = call.plane.open().await?;
    Ok(engine.create_root_token("root", None).await?.0)
}

async fn seal_status(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let status = call.plane.seal.status().await?;
    Answer::plain(200, &view(status, call.engine().is_err()))
}

async fn unseal(call: SystemCall, request: UnsealRequest) -> Result<Answer, Failure> {
    if request.reset {
        call.plane.seal.reset().await?;
    } else {
        let key = request.key.ok_or_else(|| {
            Failure::Invalid(
                "'key' must be specified in request body as JSON, or 'reset' set to true".into(),
            )
        })?;
        let share = parse_share(key.expose_str().unwrap_or_default())?;
        let status = call.plane.seal.offer(&share).await?;
        if !status.sealed {
            call.plane.open().await?;
        }
    }
    let status = call.plane.seal.status().await?;
    Answer::plain(200, &view(status, call.engine().is_err()))
}

async fn seal(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.plane.close().await;
    Ok(Answer::nothing())
}

async fn rotate(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.plane.barrier.rotate().await?;
    Ok(Answer::nothing())
}

async fn key_status(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let status = call.plane.barrier.key_status()?;
    Answer::flat(&KeyStatusView {
        term: status.term,
        install_time: rfc3339(status.installed_at),
        encryptions: status.encryptions,
    })
}

fn view(status: SealStatus, closed: bool) -> StatusView {
    StatusView {
        kind: status.kind.to_owned(),
        initialized: status.initialized,
        sealed: status.sealed || closed,
        t: status.threshold,
        n: status.shares,
        progress: status.progress,
        nonce: status.nonce,
        version: crate::VERSION,
        build_date: "",
        migration: false,
        recovery_seal: false,
        storage_type: "embedded",
        cluster_name: status.cluster_name,
        cluster_id: status.cluster_id.map(|id| id.to_string()),
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Storage(error) => error.into(),
            SealError::NotInitialized => Self::NotInitialized,
            other => Self::Invalid(other.to_string()),
        }
    }
}
