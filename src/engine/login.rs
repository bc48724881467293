//! Logins, and what becomes of the tokens they make: one path for every auth method.
//!
//! `auth method → alias → entity → policies → token`. An auth method says who the caller is and what its
//! role allows; everything that follows is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::{
    BackendError, Call, Cidr, Handle, Login, LoginHandler, Peer, Secret, TokenParameters,
    TokenType, TtlWish,
};

use super::answer::{Answer, AuthView, Body, Failure};
use super::mounts::{Mount, MountRecord};
use super::plane::Engine;
use crate::identity::{
    AliasClaim, LoginMount, NewToken, Origin, Principal, Removal, TokenId, TokenKind, Validity,
};
use crate::lease::{LONGEST, LeaseId, Limits, clamp, renewed_end};
use crate::policy::{Grant, builtin};

/// Names the token method, which is always there.
pub const TOKEN_ACCESSOR: &str = "token_builtin";
/// Tokens read from an index at a time.
const PAGE: usize = 500;

impl Engine {
    /// Carries out a login that `grant` allows: anyone may try.
    pub(super) async fn login(
        &self,
        grant: &Grant,
        mount: &Arc<Mount>,
        handler: &LoginHandler,
        call: Call,
    ) -> Result<Answer, Failure> {
        let (record, now) = (mount.record(), call.now);
        let address = call.peer.address.map(|address| address.ip());
        let claimed = (handler.claims)(&call.body);
        if let Some(name) = &claimed
            && self.lockout.is_locked(&record.id, name, now)
        {
            return Err(Failure::Denied);
        }
        let timeout = self.settings.upstream_timeout;
        let login = match tokio::time::timeout(timeout, (handler.run)(call)).await {
            Ok(Ok(login)) => login,
            Ok(Err(error)) => {
                if let (BackendError::LoginFailed(_), Some(name)) = (&error, &claimed) {
                    self.lockout.count(&record.id, name, now);
                }
                return Err(error.into());
            }
            Err(_) => {
                return Err(Failure::Unavailable(
                    "the auth method did not answer in time; try again".into(),
                ));
            }
        };
        if let Some(name) = &claimed {
            self.lockout.clear(&record.id, name, now);
        }
        if !Cidr::admit(&login.token.token_bound_cidrs, address) {
            return Err(Failure::Denied);
        }
        self.admit_login(grant, mount, &record, login).await
    }

    /// Makes the token of a caller that proved who it is.
    async fn admit_login(
        &self,
        grant: &Grant,
        mount: &Mount,
        record: &MountRecord,
        login: Login,
    ) -> Result<Answer, Failure> {
        let Login {
            alias,
            display_name,
            metadata,
            groups,
            token,
            renewal,
            warnings,
        } = login;
        let from = LoginMount {
            accessor: record.accessor.clone(),
            path: format!("{}/", record.path),
            kind: record.kind.clone(),
        };
        let claim = AliasClaim {
            name: alias.name,
            metadata: alias.metadata,
        };
        let standing = self.identity.login(&from, &claim, &groups).await?;
        let limits = mount.limits(self.settings.ttl);
        let kind = kind(token.token_type, record.config.token_type);
        let (validity, mut more) = validity(&token, kind, limits);
        let own_name = record
            .path
            .strip_prefix("auth/")
            .unwrap_or(&record.path)
            .replace('/', "-");
        let new = NewToken {
            kind,
            text: None,
            parent: None,
            policies: policies(&token),
            path: grant.path().to_owned(),
            display_name: if display_name.is_empty() {
                own_name
            } else {
                format!("{own_name}-{display_name}")
            },
            meta: metadata,
            validity,
            uses: Some(token.token_num_uses).filter(|uses| *uses > 0 && kind == TokenKind::Service),
            entity_id: Some(standing.id.clone()),
            origin: Some(Origin {
                mount: record.id.clone(),
                renewal: (kind == TokenKind::Service).then_some(renewal),
            }),
            role: None,
            bound_cidrs: token.token_bound_cidrs,
        };
        let (text, principal) = self.tokens.create(new).await?;
        if let Some(end) = principal.record.ends_at {
            self.expect_token_end(end);
        }
        // The mount may have begun to leave meanwhile, or the entity been disabled, after their tokens were
        // counted.
        let leaving = self
            .mounts
            .by_id(&record.id)
            .is_none_or(|mount| mount.record().leaving);
        let id = principal.token.clone();
        let principal = match self.complete(principal).await? {
            Some(principal) if !leaving => principal,
            _ => {
                if let Some(id) = &id {
                    self.revoke_token(id, Removal::WithChildren).await?;
                }
                return Err(Failure::Denied);
            }
        };
        metrics::counter!("daypass_logins_total", "mount" => record.path.clone()).increment(1);
        let mut answer = self.auth_answer(text, &principal);
        answer.warnings = warnings;
        answer.warnings.append(&mut more);
        Ok(answer)
    }

    /// The `auth` part of an answer about a token.
    pub fn auth_answer(&self, text: Secret, principal: &Principal) -> Answer {
        let (record, now) = (&principal.record, self.clock.now());
        Answer::of(Body::Auth(Box::new(AuthView {
            client_token: text,
            accessor: principal
                .token
                .as_ref()
                .map_or_else(String::new, |id| id.accessor().to_string()),
            policies: principal.policies().to_vec(),
            token_policies: record.policies.clone(),
            identity_policies: principal.identity_policies().to_vec(),
            metadata: (!record.meta.is_empty()).then(|| record.meta.clone()),
            lease_duration: record.seconds_left(now),
            renewable: record.renewable,
            entity_id: record.entity_id.clone().unwrap_or_default(),
            token_type: principal.kind().as_str(),
            orphan: record.parent.is_none(),
            mfa_requirement: None,
            num_uses: record.uses_left.unwrap_or_default(),
        })))
    }

    /// The principal of a token, where it may be used over this connection.
    pub(super) async fn admit(
        &self,
        principal: Principal,
        peer: &Peer,
    ) -> Result<Option<Principal>, Failure> {
        let address = peer.address.map(|address| address.ip());
        if !Cidr::admit(&principal.record.bound_cidrs, address) {
            return Ok(None);
        }
        self.complete(principal).await
    }

    /// The principal of a presented token with all that its entity gives; none where the token is unknown,
    /// ended or revoked, or its entity is disabled.
    pub async fn authenticate(&self, text: &Secret) -> Result<Option<Principal>, Failure> {
        match self.tokens.authenticate(text).await? {
            Some(principal) => self.complete(principal).await,
            None => Ok(None),
        }
    }

    /// Adds what is not in the token itself.
    pub async fn complete(&self, principal: Principal) -> Result<Option<Principal>, Failure> {
        // A stateless token does not end with its auth method by itself.
        if let (TokenKind::Batch, Some(origin)) = (principal.kind(), &principal.record.origin)
            && self
                .mounts
                .by_id(&origin.mount)
                .is_none_or(|mount| mount.record().leaving)
        {
            return Ok(None);
        }
        let Some(entity) = &principal.record.entity_id else {
            return Ok(Some(principal));
        };
        let standing = self.identity.standing(entity).await?;
        let standing = standing.filter(|standing| !standing.disabled);
        Ok(standing.map(|standing| principal.with_identity(&standing.policies)))
    }

    /// The entity that has `name` in the token method, made where it is new.
    pub async fn entity_of_token_alias(&self, name: &str) -> Result<String, Failure> {
        let claim = AliasClaim {
            name: name.to_owned(),
            metadata: BTreeMap::new(),
        };
        let standing = self.identity.login(&token_method(), &claim, &[]).await?;
        Ok(standing.id.clone())
    }

    /// Renews a token by `increment`, or as much as it began with. The auth method behind it is asked again.
    pub async fn renew_token(
        &self,
        principal: &Principal,
        increment: Option<Duration>,
    ) -> Result<Principal, Failure> {
        let record = &principal.record;
        let Some(id) = &principal.token else {
            return Err(Failure::Invalid("batch tokens cannot be renewed".into()));
        };
        if record.ends_at.is_none() {
            return Ok(principal.clone());
        }
        if !record.renewable {
            return Err(Failure::Invalid("lease is not renewable".into()));
        }
        let now = self.clock.now();
        let asked = increment.filter(|increment| !increment.is_zero());
        let end = if let Some(Origin {
            mount,
            renewal: Some(renewal),
        }) = &record.origin
        {
            let (token, limits) = self.ask_again(mount, renewal).await?;
            let (validity, _) = validity(&token, TokenKind::Service, limits);
            let increment = validity.period.or(asked).or(validity.ttl);
            let most = validity.max_ttl.map(|max| record.created_at + max);
            renewed_end(now, increment.unwrap_or_default(), most)
        } else {
            if let Some(role) = &record.role
                && self.tokens.role(role).await?.is_none()
            {
                return Err(Failure::Invalid(
                    "original token role could not be found, not renewing".into(),
                ));
            }
            let increment = record.period.or(asked).unwrap_or(record.creation_ttl);
            renewed_end(now, increment, record.max_ends_at)
        };
        if end <= now {
            return Err(Failure::Invalid(
                "past the max TTL, cannot renew: log in again".into(),
            ));
        }
        let renewed = self.tokens.renew(id, end).await?;
        self.expect_token_end(end);
        let renewed = Principal::new(Some(id.clone()), Arc::new(renewed));
        self.complete(renewed).await?.ok_or(Failure::Denied)
    }

    async fn ask_again(
        &self,
        mount: &str,
        renewal: &Handle,
    ) -> Result<(TokenParameters, Limits), Failure> {
        let mount = self.mounts.by_id(mount).ok_or(Failure::Denied)?;
        let asking = mount.backend.renew_login(renewal);
        let answered = tokio::time::timeout(self.settings.upstream_timeout, asking).await;
        let token = answered.map_err(|_| {
            Failure::Unavailable("the auth method did not answer in time; try again".into())
        })??;
        Ok((token, mount.limits(self.settings.ttl)))
    }

    /// Revokes every token that logins at the mount with that id made.
    pub(super) async fn revoke_tokens_of_mount(&self, mount: &str) -> Result<(), Failure> {
        loop {
            let page = self.tokens.of_mount(mount, None, PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            self.revoke_tokens(&page).await?;
        }
    }

    /// Revokes every token and every lease of an entity. A stateless token has leases of its own.
    pub(super) async fn revoke_all_of_entity(&self, entity: &str) -> Result<(), Failure> {
        self.revoke_tokens_of_entity(entity).await?;
        let mut after: Option<LeaseId> = None;
        loop {
            let mut ids = self.leases.of_entity(entity, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                return Ok(());
            };
            after = Some(last);
            self.schedule(&mut ids).await?;
        }
    }

    async fn revoke_tokens_of_entity(&self, entity: &str) -> Result<(), Failure> {
        loop {
            let page = self.tokens.of_entity(entity, None, PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            self.revoke_tokens(&page).await?;
        }
    }

    async fn revoke_tokens(&self, ids: &[TokenId]) -> Result<(), Failure> {
        for id in ids {
            self.revoke_token(id, Removal::WithChildren).await?;
        }
        Ok(())
    }

    /// The mounts and names that are locked out.
    pub fn locked_names(&self) -> Vec<(String, String)> {
        self.lockout.locked(self.clock.now())
    }

    /// Lets a name that is locked out at a mount try again.
    pub fn unlock_name(&self, mount: &str, name: &str) -> bool {
        self.lockout.clear(mount, name, self.clock.now())
    }
}

/// The token method, as a mount that entities have names in.
pub fn token_method() -> LoginMount {
    LoginMount {
        accessor: TOKEN_ACCESSOR.to_owned(),
        path: "auth/token/".to_owned(),
        kind: "token".to_owned(),
    }
}

/// Service or batch, as the role and then the mount have it.
fn kind(role: TokenType, mount: TokenType) -> TokenKind {
    match role {
        TokenType::Service | TokenType::DefaultService => TokenKind::Service,
        TokenType::Batch | TokenType::DefaultBatch => TokenKind::Batch,
        TokenType::Default => match mount {
            TokenType::Batch | TokenType::DefaultBatch => TokenKind::Batch,
            TokenType::Default | TokenType::Service | TokenType::DefaultService => {
                TokenKind::Service
            }
        },
    }
}

/// The policies of a new token, sorted, each once.
fn policies(token: &TokenParameters) -> Vec<String> {
    let mut policies = token.token_policies.clone();
    // Roles refuse it already; no login makes a root token.
    policies.retain(|name| name != builtin::ROOT);
    if !token.token_no_default_policy {
        policies.push(builtin::DEFAULT.to_owned());
    }
    policies.sort_unstable();
    policies.dedup();
    policies
}

/// How long a token of these parameters lasts, with advice where limits cut it short.
fn validity(token: &TokenParameters, kind: TokenKind, limits: Limits) -> (Validity, Vec<String>) {
    let some = |ttl: Duration| Some(ttl).filter(|ttl| !ttl.is_zero());
    let (explicit_max, period) = (some(token.token_explicit_max_ttl), some(token.token_period));
    let asked = period.or(some(token.token_ttl));
    let max = match (some(token.token_max_ttl), explicit_max) {
        (Some(max), Some(explicit)) => Some(max.min(explicit)),
        (max, explicit) => max.or(explicit),
    };
    let wish = TtlWish {
        asked,
        default: None,
        // A period outlasts the role's maximum by being renewed.
        max: if period.is_some() { explicit_max } else { max },
    };
    let (ttl, max) = clamp(wish, limits);
    let mut warnings = Vec::new();
    if asked.is_some_and(|asked| asked > ttl) {
        warnings.push(format!(
            "TTL is longer than what is allowed and was set to {} s",
            ttl.as_secs()
        ));
    }
    let validity = Validity {
        ttl: Some(ttl),
        max_ttl: if period.is_some() {
            explicit_max.map(|max| max.min(LONGEST))
        } else {
            Some(max)
        },
        explicit_max_ttl: explicit_max,
        period: period.map(|period| period.min(limits.max)),
        renewable: kind == TokenKind::Service,
    };
    (validity, warnings)
}
