//! `sys/generate-root/*`: a quorum of share holders makes a root token; the same below
//! `sys/generate-root-token/*` for callers with a token, as OpenBao's command line asks.
//!
//! The token leaves hidden under a one-time password (XOR), which only whoever began the attempt holds:
//! the holder of the last share learns nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use daypass_contract::{Access, Entropy, NoFields, Operation, Secret, reveal, route};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sys_seal::share_of;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::Removal;
use crate::storage::seal::{RootTokenStatus, RootTokenStep};

/// How long the text of a service token is, and so its one-time password.
const TOKEN_LENGTH: usize = 58;

#[derive(Deserialize, JsonSchema)]
struct AttemptRequest {
    /// A one-time password of `otp_length` bytes; left out, one is made and answered once.
    otp: Option<Secret>,
    /// Not supported.
    pgp_key: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct UpdateRequest {
    /// One share, in hex or base64.
    key: Option<Secret>,
    /// Of the attempt.
    nonce: Option<String>,
}

/// Where an attempt stands, outside the envelope.
#[derive(Serialize, JsonSchema)]
struct PlainView {
    nonce: String,
    started: bool,
    progress: usize,
    required: u8,
    complete: bool,
    #[serde(serialize_with = "reveal")]
    encoded_token: Secret,
    /// The same, under its older name.
    #[serde(serialize_with = "reveal")]
    encoded_root_token: Secret,
    pgp_fingerprint: &'static str,
    #[serde(serialize_with = "reveal")]
    otp: Secret,
    otp_length: usize,
}

/// The same in the envelope.
#[derive(Serialize, JsonSchema)]
struct DataView {
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    started: bool,
    progress: usize,
    required: u8,
    complete: bool,
    #[serde(skip_serializing_if = "is_none", serialize_with = "reveal_some")]
    encoded_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgp_fingerprint: Option<&'static str>,
    #[serde(skip_serializing_if = "is_none", serialize_with = "reveal_some")]
    otp: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    otp_length: Option<usize>,
}

#[expect(clippy::ref_option, reason = "serde asks for this shape")]
fn is_none(secret: &Option<Secret>) -> bool {
    secret.is_none()
}

#[expect(clippy::ref_option, reason = "serde asks for this shape")]
fn reveal_some<S: serde::Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => reveal(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// Which of the two paths asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Without a token and outside the envelope.
    Plain,
    /// By policy and in the envelope.
    Data,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    const READ: &str = "Tells where the making of a root token by share holders stands.";
    const START: &str = "Begins to make a root token, which a quorum of shares completes.";
    const CANCEL: &str = "Forgets the attempt and the shares given for it.";
    const UPDATE: &str =
        "Takes one share; the last one makes the token, hidden under the password.";
    let path = "sys/generate-root/attempt";
    routes
        .serve::<NoFields, PlainView, _, _>(Read, path, READ, |call, _| status(call, Form::Plain))
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<AttemptRequest, PlainView, _, _>(Write, path, START, |call, request| {
            start(call, request, Form::Plain)
        })
        .written(route::Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(Delete, path, CANCEL, cancel)
        .access = Access::Anyone;
    routes
        .serve::<UpdateRequest, PlainView, _, _>(
            Write,
            "sys/generate-root/update",
            UPDATE,
            |call, request| update(call, request, Form::Plain),
        )
        .written(route::Form::Bare)
        .access = Access::Anyone;
    let path = "sys/generate-root-token/attempt";
    routes.serve::<NoFields, DataView, _, _>(Read, path, READ, |call, _| status(call, Form::Data));
    routes.serve::<AttemptRequest, DataView, _, _>(Write, path, START, |call, request| {
        start(call, request, Form::Data)
    });
    routes.serve::<NoFields, (), _, _>(Delete, path, CANCEL, cancel);
    routes.serve::<UpdateRequest, DataView, _, _>(
        Write,
        "sys/generate-root-token/update",
        UPDATE,
        |call, request| update(call, request, Form::Data),
    );
}

async fn status(call: SystemCall, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    let status = call.plane.seal.root_token_status().await?;
    answer(form, status, Some(Secret::new([])))
}

async fn start(call: SystemCall, request: AttemptRequest, form: Form) -> Result<Answer, Failure> {
    call.engine()?;
    if request.pgp_key.is_some_and(|key| !key.is_empty()) {
        return Err(Failure::Unsupported(
            "tokens are not encrypted with PGP here: leave pgp_key out and keep the one-time password"
                .into(),
        ));
    }
    let given = request.otp.filter(|otp| !otp.is_empty());
    let shown = given.is_none();
    let otp = given.unwrap_or_else(|| one_time_password(&*call.plane.entropy));
    if otp.len() != TOKEN_LENGTH {
        return Err(Failure::Invalid("OTP string has incorrect length".into()));
    }
    let status = call.plane.seal.begin_root_token(otp.duplicate()).await?;
    // Whoever sent one has it.
    let otp = if shown { otp } else { Secret::new([]) };
    answer(form, status, Some(otp))
}

async fn cancel(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.engine()?;
    call.plane.seal.cancel_root_token().await?;
    Ok(Answer::nothing())
}

async fn update(call: SystemCall, request: UpdateRequest, form: Form) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let share = share_of(request.key)?;
    let nonce = request.nonce.unwrap_or_default();
    let (status, otp) = match call.plane.seal.offer_for_root_token(&nonce, &share).await? {
        RootTokenStep::More(status) => return answer(form, status, None),
        RootTokenStep::Allowed { status, otp } => (status, otp),
    };
    let (token, principal) = engine.create_root_token("root", None).await?;
    let Some(encoded) = hidden(&token, &otp) else {
        if let Some(id) = &principal.token {
            engine.revoke_token(id, Removal::WithChildren).await?;
        }
        return Err(Failure::Internal(
            "the root token has another length than its one-time password".into(),
        ));
    };
    let nonce = status.nonce.map(|nonce| nonce.to_string());
    match form {
        Form::Plain => Answer::plain(
            200,
            &PlainView {
                nonce: nonce.unwrap_or_default(),
                started: true,
                progress: status.progress,
                required: status.required,
                complete: true,
                encoded_token: encoded.duplicate(),
                encoded_root_token: encoded,
                pgp_fingerprint: "",
                otp: Secret::new([]),
                otp_length: 0,
            },
        ),
        Form::Data => Answer::data(&DataView {
            nonce,
            started: true,
            progress: status.progress,
            required: status.required,
            complete: true,
            encoded_token: Some(encoded),
            pgp_fingerprint: Some(""),
            otp: None,
            otp_length: None,
        }),
    }
}

/// An attempt that is not complete. `otp` is `None` where a share was given, whose answer has other fields.
fn answer(form: Form, status: RootTokenStatus, otp: Option<Secret>) -> Result<Answer, Failure> {
    let nonce = status.nonce.map(|nonce| nonce.to_string());
    let otp_length = otp.as_ref().map(|_| TOKEN_LENGTH);
    match form {
        Form::Plain => Answer::plain(
            200,
            &PlainView {
                started: nonce.is_some(),
                nonce: nonce.unwrap_or_default(),
                progress: status.progress,
                required: status.required,
                complete: false,
                encoded_token: Secret::new([]),
                encoded_root_token: Secret::new([]),
                pgp_fingerprint: "",
                otp: otp.unwrap_or_else(|| Secret::new([])),
                otp_length: otp_length.unwrap_or(0),
            },
        ),
        Form::Data => Answer::data(&DataView {
            started: nonce.is_some(),
            pgp_fingerprint: nonce.as_ref().map(|_| ""),
            nonce,
            progress: status.progress,
            required: status.required,
            complete: false,
            encoded_token: otp.is_none().then(|| Secret::new([])),
            otp,
            otp_length,
        }),
    }
}

/// Letters and digits, so that a password can be read aloud and typed.
fn one_time_password(entropy: &dyn Entropy) -> Secret {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let letter = |_| {
        ALPHABET
            .get(entropy.below(ALPHABET.len()))
            .copied()
            .unwrap_or(b'0')
    };
    Secret::new((0..TOKEN_LENGTH).map(letter).collect::<Vec<u8>>())
}

/// `token` under `otp`, in base64 without padding; `None` where their lengths differ.
fn hidden(token: &Secret, otp: &Secret) -> Option<Secret> {
    if token.len() != otp.len() {
        return None;
    }
    let pairs = token.expose().iter().zip(otp.expose());
    let hidden: Vec<u8> = pairs.map(|(token, otp)| token ^ otp).collect();
    Some(Secret::new(STANDARD_NO_PAD.encode(hidden)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::World;

    #[tokio::test]
    async fn a_one_time_password_is_as_long_as_a_token() {
        let world = World::new().await;
        let engine = world.plane.engine().unwrap();
        let (token, _) = engine.create_root_token("root", None).await.unwrap();
        assert_eq!(token.len(), TOKEN_LENGTH);
        let otp = one_time_password(&*world.plane.entropy);
        assert!(otp.len() == TOKEN_LENGTH && otp.expose().iter().all(u8::is_ascii_alphanumeric));
        assert!(hidden(&token, &otp).is_some());
        assert!(hidden(&token, &Secret::new("short")).is_none());
    }

    /// As OpenBao 2.7.2 answered it.
    #[test]
    fn a_token_is_hidden_as_openbao_hides_it() {
        let (token, otp) = ("s.uoA12W2yaAQgELLOEk5Mt0b4", "7WwAJHc48ntgKkVuhpZo2TvzUy");
        let encoded = hidden(&Secret::new(token), &Secret::new(otp)).unwrap();
        assert_eq!(
            encoded.expose_str(),
            Some("RHkCLgt5UWMKFxUmGgwTOSQ/HwQHGQJKN00")
        );
    }
}
