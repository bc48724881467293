//! `sys/init`, `sys/seal-status`, `sys/unseal`, `sys/seal`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::route::Form;
use daypass_contract::{Access, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::storage::seal::{SealError, SealStatus, parse_share};

#[derive(Deserialize, JsonSchema)]
struct InitRequest {
    /// How many shares the root key is split into.
    secret_shares: Option<usize>,
    /// How many of them unseal.
    secret_threshold: Option<usize>,
    /// There are none, so only 0 is taken.
    recovery_shares: Option<usize>,
    /// There are none, so only 0 is taken.
    recovery_threshold: Option<usize>,
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

pub(super) fn reveal_all<S: serde::Serializer>(
    secrets: &[Secret],
    serializer: S,
) -> Result<S::Ok, S::Error> {
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

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Read, Write};
    routes
        .serve::<NoFields, Initialized, _, _>(
            Read,
            "sys/init",
            "Tells whether the server is initialized.",
            initialized,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<InitRequest, InitAnswer, _, _>(
            Write,
            "sys/init",
            "Initializes the server once: makes its keys, its shares and the first root token.",
            init,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, StatusView, _, _>(
            Read,
            "sys/seal-status",
            "Tells where the seal stands.",
            seal_status,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<UnsealRequest, StatusView, _, _>(
            Write,
            "sys/unseal",
            "Takes one share towards unsealing.",
            unseal,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/seal",
            "Wipes the keys: nothing is readable until unsealed.",
            seal,
        )
        .access = Access::Sudo;
}

async fn initialized(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let initialized = call.plane.seal.status().await?.initialized;
    Answer::plain(200, &Initialized { initialized })
}

async fn init(call: SystemCall, request: InitRequest) -> Result<Answer, Failure> {
    if request
        .pgp_keys
        .as_ref()
        .is_some_and(|keys| !keys.is_empty())
        || request
            .root_token_pgp_key
            .as_ref()
            .is_some_and(|key| !key.is_empty())
    {
        return Err(Failure::Unsupported(
            "shares are not encrypted with PGP here: leave pgp_keys out".into(),
        ));
    }
    let by_itself = call.plane.seal.opens_by_itself();
    recovery(by_itself, &request)?;
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

/// Refuses recovery shares, in Vault's words where the seal has shares of its own.
fn recovery(by_itself: bool, request: &InitRequest) -> Result<(), Failure> {
    let asked = |number: Option<usize>| number.is_some_and(|number| number > 0);
    let names: Vec<&str> = [
        ("recovery_shares", asked(request.recovery_shares)),
        ("recovery_threshold", asked(request.recovery_threshold)),
    ]
    .into_iter()
    .filter_map(|(name, asked)| asked.then_some(name))
    .collect();
    let names = names.join(",");
    match (names.is_empty(), by_itself) {
        (true, _) => Ok(()),
        (false, false) => Err(Failure::Invalid(format!(
            "parameters {names} not applicable to seal type shamir"
        ))),
        (false, true) => Err(Failure::Unsupported(format!(
            "there are no recovery keys, because a store with a key file opens by that file alone: leave \
             {names} out"
        ))),
    }
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

/// The share in a request that must have one.
pub(super) fn share_of(key: Option<Secret>) -> Result<Secret, Failure> {
    let key = key.filter(|key| !key.is_empty()).ok_or_else(|| {
        Failure::Invalid("'key' must be specified in request body as JSON".into())
    })?;
    Ok(parse_share(key.expose_str().unwrap_or_default())?)
}

async fn seal(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.plane.close().await;
    Ok(Answer::nothing())
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
            SealError::Unsupported(reason) => Self::Unsupported(reason.into()),
            other => Self::Invalid(other.to_string()),
        }
    }
}
