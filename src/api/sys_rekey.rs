//! `sys/rekey/*`: a quorum of share holders makes new shares; the same below `sys/rotate/root/*` for
//! callers with a token, as OpenBao's command line asks. What exists only for recovery keys and for PGP
//! says why it does not exist here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{Access, NoFields, Operation, Secret, route};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sys_seal::{reveal_all, share_of};
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::storage::seal::{RekeyStatus, RekeyStep, VerifyStep};

#[derive(Deserialize, JsonSchema)]
struct InitRequest {
    /// How many shares there will be.
    #[serde(default)]
    secret_shares: usize,
    /// How many of them will unseal.
    #[serde(default)]
    secret_threshold: usize,
    /// Whether the new shares are valid only after a quorum of them was shown to `verify`.
    #[serde(default)]
    require_verification: bool,
    /// Not supported.
    pgp_keys: Option<Vec<String>>,
    /// Not supported: it keeps shares that were encrypted with PGP.
    #[serde(default)]
    backup: bool,
    #[serde(rename = "stored_shares", default)]
    _stored_shares: Option<u8>,
}

#[derive(Deserialize, JsonSchema)]
struct ShareRequest {
    /// One share, in hex or base64.
    key: Option<Secret>,
    /// Of the attempt, or of its verification.
    nonce: Option<String>,
}

/// Where a change of shares stands, outside the envelope.
#[derive(Serialize, JsonSchema)]
struct PlainStatus {
    nonce: String,
    started: bool,
    t: u8,
    n: u8,
    progress: usize,
    required: u8,
    pgp_fingerprints: Option<Vec<String>>,
    backup: bool,
    verification_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_nonce: Option<String>,
}

/// The same in the envelope.
#[derive(Serialize, JsonSchema)]
struct DataStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    started: bool,
    t: u8,
    n: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<usize>,
    required: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_nonce: Option<String>,
}

/// New shares.
#[derive(Serialize, JsonSchema)]
struct MadeView {
    nonce: String,
    complete: bool,
    /// In hex.
    #[serde(serialize_with = "reveal_all")]
    keys: Vec<Secret>,
    /// In base64.
    #[serde(serialize_with = "reveal_all")]
    keys_base64: Vec<Secret>,
    pgp_fingerprints: Option<Vec<String>>,
    backup: bool,
    /// Until they are verified, the old shares are the valid ones.
    verification_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_nonce: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct VerifyView {
    nonce: String,
    started: bool,
    t: u8,
    n: u8,
    progress: usize,
}

#[derive(Serialize, JsonSchema)]
struct ValidView {
    nonce: String,
    complete: bool,
}

/// Which of the two paths asks.
#[derive(Clone, Copy)]
enum Form {
    /// Without a token and outside the envelope.
    Plain,
    /// By policy and in the envelope.
    Data,
}

impl Form {
    fn answer<T: Serialize>(self, view: &T) -> Result<Answer, Failure> {
        match self {
            Self::Plain => Answer::plain(200, view),
            Self::Data => Answer::data(view),
        }
    }
}

const STATUS: &str = "Tells where a change of shares stands.";
const BEGIN: &str = "Begins to make new shares, which a quorum of the old ones completes.";
const CANCEL: &str = "Forgets the change of shares; the old ones stay valid.";
const UPDATE: &str = "Takes one old share; the last one makes the new shares.";
const VERIFY_STATUS: &str = "Tells where the verification of new shares stands.";
const VERIFY: &str = "Takes one new share; the last one makes the new shares valid.";
const NO_RECOVERY: &str = "Refuses: there are no recovery keys.";
const VERIFY_RESTART: &str = "Forgets the new shares that were shown; they stay what they are.";

pub(super) fn routes(routes: &mut SystemRoutes) {
    plain_routes(routes);
    data_routes(routes);
    absent_routes(routes);
}

fn plain_routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    let (init, verify) = ("sys/rekey/init", "sys/rekey/verify");
    routes
        .serve::<NoFields, PlainStatus, _, _>(Read, init, STATUS, |call, _| {
            status(call, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<InitRequest, PlainStatus, _, _>(Write, init, BEGIN, |call, request| {
            begin(call, request, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(Delete, init, CANCEL, cancel)
        .access = Access::Anyone;
    routes
        .serve::<ShareRequest, MadeView, _, _>(
            Write,
            "sys/rekey/update",
            UPDATE,
            |call, request| update(call, request, Form::Plain),
        )
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, VerifyView, _, _>(Read, verify, VERIFY_STATUS, |call, _| {
            verification(call, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<ShareRequest, ValidView, _, _>(Write, verify, VERIFY, |call, request| {
            show(call, request, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, VerifyView, _, _>(Delete, verify, VERIFY_RESTART, |call, _| {
            restart(call, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
}

fn data_routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    let (init, verify) = ("sys/rotate/root/init", "sys/rotate/root/verify");
    routes.serve::<NoFields, DataStatus, _, _>(Read, init, STATUS, |call, _| {
        status(call, Form::Data)
    });
    routes.serve::<InitRequest, DataStatus, _, _>(Write, init, BEGIN, |call, request| {
        begin(call, request, Form::Data)
    });
    routes.serve::<NoFields, (), _, _>(Delete, init, CANCEL, cancel);
    routes.serve::<ShareRequest, MadeView, _, _>(
        Write,
        "sys/rotate/root/update",
        UPDATE,
        |call, request| update(call, request, Form::Data),
    );
    routes.serve::<NoFields, VerifyView, _, _>(Read, verify, VERIFY_STATUS, |call, _| {
        verification(call, Form::Data)
    });
    routes.serve::<ShareRequest, ValidView, _, _>(Write, verify, VERIFY, |call, request| {
        show(call, request, Form::Data)
    });
    routes.serve::<NoFields, VerifyView, _, _>(Delete, verify, VERIFY_RESTART, |call, _| {
        restart(call, Form::Data)
    });
}

/// What a client may ask for and is told why there is none.
fn absent_routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    for path in [
        "sys/rekey/backup",
        "sys/rekey/recovery-key-backup",
        "sys/rotate/root/backup",
        "sys/rotate/recovery/backup",
    ] {
        routes.serve::<NoFields, (), _, _>(
            Read,
            path,
            "Refuses: shares are never kept, encrypted or not.",
            |_, _| async { Err(Failure::Invalid("no backed-up keys found".into())) },
        );
        routes.serve::<NoFields, (), _, _>(
            Delete,
            path,
            "Does nothing: shares are never kept, encrypted or not.",
            |_, _| async { Ok(Answer::nothing()) },
        );
    }
    for (path, access, operations) in [
        (
            "sys/rekey-recovery-key/init",
            Access::Anyone,
            &[Read, Write, Delete][..],
        ),
        ("sys/rekey-recovery-key/update", Access::Anyone, &[Write]),
        (
            "sys/rekey-recovery-key/verify",
            Access::Anyone,
            &[Read, Write, Delete],
        ),
        (
            "sys/rotate/recovery/init",
            Access::Policy,
            &[Read, Write, Delete],
        ),
        ("sys/rotate/recovery/update", Access::Policy, &[Write]),
        (
            "sys/rotate/recovery/verify",
            Access::Policy,
            &[Read, Write, Delete],
        ),
    ] {
        for operation in operations {
            routes
                .serve::<RecoveryRequest, (), _, _>(*operation, path, NO_RECOVERY, |_, _| async {
                    Err(Failure::Invalid(
                        "recovery keys are not supported: a store opens by shares, or by its key file alone"
                            .into(),
                    ))
                })
                .access = access;
        }
    }
}

/// Anything: it is refused unread.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
struct RecoveryRequest {}

async fn status(call: SystemCall, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    status_answer(form, &call.plane.seal.rekey_status().await?)
}

async fn begin(call: SystemCall, request: InitRequest, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let pgp = request.pgp_keys.is_some_and(|keys| !keys.is_empty());
    if pgp || request.backup {
        return Err(Failure::Unsupported(
            "shares are not encrypted with PGP here, and never kept: leave pgp_keys and backup out, and \
             ask for require_verification"
                .into(),
        ));
    }
    let begun = call.plane.seal.begin_rekey(
        request.secret_shares,
        request.secret_threshold,
        request.require_verification,
    );
    status_answer(form, &begun.await?)
}

async fn cancel(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.engine()?;
    call.plane.seal.cancel_rekey().await?;
    Ok(Answer::nothing())
}

async fn update(call: SystemCall, request: ShareRequest, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let share = share_of(request.key)?;
    let nonce = request.nonce.unwrap_or_default();
    match call.plane.seal.offer_for_rekey(&nonce, &share).await? {
        RekeyStep::More(status) => status_answer(form, &status),
        RekeyStep::Made {
            nonce,
            shares,
            verification,
        } => form.answer(&MadeView {
            nonce: nonce.to_string(),
            complete: true,
            keys: texts(&shares, |bytes| hex::encode(bytes)),
            keys_base64: texts(&shares, |bytes| STANDARD.encode(bytes)),
            pgp_fingerprints: None,
            backup: false,
            verification_required: verification.is_some(),
            verification_nonce: verification.map(|nonce| nonce.to_string()),
        }),
    }
}

async fn verification(call: SystemCall, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let status = call.plane.seal.verification_status().await?;
    verification_answer(form, &status)
}

async fn restart(call: SystemCall, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let status = call.plane.seal.restart_verification().await?;
    verification_answer(form, &status)
}

async fn show(call: SystemCall, request: ShareRequest, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let share = share_of(request.key)?;
    let nonce = request.nonce.unwrap_or_default();
    match call
        .plane
        .seal
        .offer_for_verification(&nonce, &share)
        .await?
    {
        VerifyStep::More(status) => verification_answer(form, &status),
        VerifyStep::Valid { nonce } => form.answer(&ValidView {
            nonce: nonce.to_string(),
            complete: true,
        }),
    }
}

fn status_answer(form: Form, status: &RekeyStatus) -> Result<Answer, Failure> {
    let nonce = status.nonce.map(|nonce| nonce.to_string());
    let verification_nonce = status.verification.map(|there| there.nonce.to_string());
    match form {
        Form::Plain => Answer::plain(
            200,
            &PlainStatus {
                started: nonce.is_some(),
                nonce: nonce.unwrap_or_default(),
                t: status.threshold,
                n: status.shares,
                progress: status.progress,
                required: status.required,
                pgp_fingerprints: None,
                backup: false,
                verification_required: status.verify,
                verification_nonce,
            },
        ),
        Form::Data => {
            let started = nonce.is_some();
            Answer::data(&DataStatus {
                nonce,
                started,
                t: status.threshold,
                n: status.shares,
                progress: started.then_some(status.progress),
                required: status.required,
                verification_required: started.then_some(status.verify),
                verification_nonce: started.then(|| verification_nonce.unwrap_or_default()),
            })
        }
    }
}

fn verification_answer(form: Form, status: &RekeyStatus) -> Result<Answer, Failure> {
    let there = status.verification;
    form.answer(&VerifyView {
        nonce: there.map_or_else(String::new, |there| there.nonce.to_string()),
        started: there.is_some(),
        t: status.threshold,
        n: status.shares,
        progress: there.map_or(0, |there| there.progress),
    })
}

fn texts(shares: &[Secret], encode: fn(&[u8]) -> String) -> Vec<Secret> {
    let text = |share: &Secret| Secret::new(encode(share.expose()));
    shares.iter().map(text).collect()
}
