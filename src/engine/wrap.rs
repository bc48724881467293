//! Response wrapping: an answer is kept for a token that opens it once.
//!
//! The caller who asked gets the token, and may hand it on. Whoever opens it first gets the answer; that
//! somebody else was first shows, because then it does not open.

use std::time::{Duration, SystemTime};

use daypass_contract::{Json, Operation, Secret, TtlWish};
use serde::Serialize;
use serde_json::value::RawValue;

use super::answer::{Answer, AuthView, Body, Failure, LeaseView, WrapView};
use super::plane::Engine;
use crate::identity::{
    NewToken, Principal, Removal, Shelf, Spent, TokenId, TokenKind, TokenRecord, Validity,
};
use crate::lease::{LeaseId, clamp};
use crate::policy::builtin;

/// Where the answer lies on the token's shelf.
const ANSWER: &str = "answer";
/// What a token is told that does not open anything (any more).
const SPENT: &str = "wrapping token is not valid or does not exist";

/// A wrapping token, as `sys/wrapping/lookup` tells of it.
pub struct Wrapping {
    /// The path whose answer is wrapped.
    pub creation_path: String,
    /// When.
    pub created_at: SystemTime,
    /// For how long.
    pub ttl: Duration,
}

/// An answer as it is kept: the parts of the envelope but for the request's id.
#[derive(Serialize)]
struct Kept<'a> {
    lease_id: &'a str,
    renewable: bool,
    lease_duration: u64,
    data: Option<&'a RawValue>,
    wrap_info: Option<()>,
    warnings: Option<&'a [String]>,
    auth: Option<&'a AuthView>,
}

impl Engine {
    /// Keeps `answer` and gives the token that opens it; an answer with nothing in it stays as it is.
    pub(super) async fn wrap(
        &self,
        answer: Answer,
        path: &str,
        ttl: Duration,
    ) -> Result<Answer, Failure> {
        let Some(kept) = keep(&answer)? else {
            return Ok(answer);
        };
        let made = self.wrapping_token(path, ttl, &kept).await;
        let (token, principal, ttl) = match made {
            Ok(made) => made,
            Err(failure) => {
                self.undo_unseen(&answer).await;
                return Err(failure);
            }
        };
        let wrapped_accessor = match &answer.body {
            Body::Auth(auth) => Some(auth.accessor.clone()).filter(|name| !name.is_empty()),
            _ => None,
        };
        Ok(Answer::of(Body::Wrapped(Box::new(wrap_view(
            token,
            &principal,
            ttl,
            wrapped_accessor,
        )))))
    }

    /// A token that opens `kept`, and how long it does.
    async fn wrapping_token(
        &self,
        path: &str,
        ttl: Duration,
        kept: &Secret,
    ) -> Result<(Secret, Principal, Duration), Failure> {
        let wish = TtlWish {
            asked: Some(ttl),
            ..TtlWish::default()
        };
        let (ttl, _) = clamp(wish, self.settings.ttl);
        let new = NewToken {
            kind: TokenKind::Service,
            text: None,
            parent: None,
            policies: vec![builtin::RESPONSE_WRAPPING.to_owned()],
            path: path.to_owned(),
            display_name: String::new(),
            meta: std::collections::BTreeMap::new(),
            validity: Validity {
                ttl: Some(ttl),
                max_ttl: Some(ttl),
                explicit_max_ttl: Some(ttl),
                period: None,
                renewable: false,
            },
            uses: Some(1),
            entity_id: None,
            origin: None,
            role: None,
            bound_cidrs: Vec::new(),
        };
        let (token, principal) = self.tokens.create(new).await?;
        if let Some(end) = principal.record.ends_at {
            self.expect_token_end(end);
        }
        if let Some(id) = &principal.token {
            self.tokens.keep(id, Shelf::Wrapped, ANSWER, kept).await?;
        }
        Ok((token, principal, ttl))
    }

    /// Revokes what was made for an answer that nobody will get.
    pub(super) async fn undo_unseen(&self, answer: &Answer) {
        match &answer.body {
            Body::Lease(_, lease) => self.revoke_unseen(&LeaseId::from_text(&lease.id)).await,
            Body::Auth(auth) => self.revoke_unseen_token(&auth.accessor).await,
            Body::Wrapped(wrap) => {
                // It may hold a lease or a token; its own end is what those who asked agreed to.
                self.revoke_unseen_token(&wrap.accessor).await;
            }
            _ => {}
        }
    }

    async fn revoke_unseen_token(&self, accessor: &str) {
        let Ok(accessor) = accessor.parse::<crate::identity::Accessor>() else {
            return;
        };
        let revoked = self
            .revoke_token(&accessor.id(), Removal::WithChildren)
            .await;
        if let Err(error) = revoked {
            tracing::error!(%accessor, %error, "a token that nobody was given stays until its end");
        }
    }

    /// Opens a wrapping token: gives what it stands for, and ends it. The second to try gets nothing.
    pub async fn unwrap(&self, token: &Secret) -> Result<Answer, Failure> {
        let kept = self.open_once(token).await?.2;
        Ok(Answer::of(Body::Kept(Json::from_secret(kept))))
    }

    /// Moves what a wrapping token stands for to a new one of the same length; the old one ends.
    pub async fn rewrap(&self, token: &Secret) -> Result<Answer, Failure> {
        let (_, record, kept) = self.open_once(token).await?;
        let ttl = record.creation_ttl;
        let (token, principal, ttl) = self.wrapping_token(&record.path, ttl, &kept).await?;
        let view = wrap_view(token, &principal, ttl, None);
        Ok(Answer::of(Body::Wrapped(Box::new(view))))
    }

    /// What can be told of a wrapping token without opening it.
    pub async fn wrapping(&self, token: &Secret) -> Result<Wrapping, Failure> {
        let (_, record) = self.wrapping_record(token).await?;
        Ok(Wrapping {
            creation_path: record.path.clone(),
            created_at: record.created_at,
            ttl: record.creation_ttl,
        })
    }

    async fn open_once(&self, token: &Secret) -> Result<(TokenId, TokenRecord, Secret), Failure> {
        let spent = || Failure::Invalid(SPENT.to_owned());
        let (principal, record) = self.wrapping_record(token).await?;
        let id = principal.token.clone().ok_or_else(spent)?;
        // Of several at a time, one counts the only use.
        if self.tokens.spend(&principal).await? != Spent::Last {
            return Err(spent());
        }
        let kept = self.tokens.kept(&id, Shelf::Wrapped, ANSWER).await?;
        self.revoke_token(&id, Removal::WithChildren).await?;
        Ok((id, record, kept.ok_or_else(spent)?))
    }

    async fn wrapping_record(&self, token: &Secret) -> Result<(Principal, TokenRecord), Failure> {
        let spent = || Failure::Invalid(SPENT.to_owned());
        let principal = self.tokens.authenticate(token).await?.ok_or_else(spent)?;
        let record = TokenRecord::clone(&principal.record);
        if record.policies != [builtin::RESPONSE_WRAPPING] {
            return Err(spent());
        }
        Ok((principal, record))
    }
}

fn wrap_view(
    token: Secret,
    principal: &Principal,
    ttl: Duration,
    wrapped_accessor: Option<String>,
) -> WrapView {
    WrapView {
        token,
        accessor: principal
            .token
            .as_ref()
            .map_or_else(String::new, |id| id.accessor().to_string()),
        ttl,
        created_at: principal.record.created_at,
        creation_path: principal.record.path.clone(),
        wrapped_accessor,
    }
}

/// The parts of an answer to be kept; none where nothing is in it.
fn keep(answer: &Answer) -> Result<Option<Secret>, Failure> {
    let nothing: (Option<&Json>, Option<&LeaseView>, Option<&AuthView>) = (None, None, None);
    let (data, lease, auth) = match &answer.body {
        Body::Data(data) | Body::Flat(data) => (Some(data), None, None),
        Body::Lease(data, lease) => (Some(data), Some(lease), None),
        Body::Auth(auth) => (None, None, Some(&**auth)),
        Body::Nothing
        | Body::Accepted
        | Body::Absent(_)
        | Body::Plain { .. }
        | Body::Wrapped(_)
        | Body::Kept(_) => nothing,
        Body::Raw { .. } => {
            return Err(Failure::Invalid(
                "this answer is public and outside the envelope: it is not wrapped".into(),
            ));
        }
    };
    if data.is_none() && auth.is_none() {
        return Ok(None);
    }
    let broken = |_| Failure::Internal("answer cannot be wrapped".into());
    let data = data.map(|data| serde_json::from_slice::<&RawValue>(data.expose()));
    let kept = Kept {
        lease_id: lease.map_or("", |lease| lease.id.as_str()),
        renewable: lease.is_some_and(|lease| lease.renewable),
        lease_duration: lease.map_or(0, |lease| lease.ttl.as_secs()),
        data: data.transpose().map_err(broken)?,
        wrap_info: None,
        warnings: (!answer.warnings.is_empty()).then_some(answer.warnings.as_slice()),
        auth,
    };
    let bytes = serde_json::to_vec(&kept).map_err(broken)?;
    Ok(Some(Secret::new(bytes)))
}

/// Whether an answer to this operation can be wrapped.
pub(super) fn wrappable(operation: Operation) -> bool {
    match operation {
        Operation::Read | Operation::List | Operation::Write | Operation::Patch => true,
        Operation::Delete => false,
    }
}
