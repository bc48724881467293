//! What a secret id is, apart from the secret; what may be asked of a new one, and what is shown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Cidr, Secret, duration, millis, reveal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bound::{self, Bound};
use super::metadata::Metadata;
use super::role::RoleRecord;
use crate::name;

/// How the Vault API writes "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A secret id as it is stored, under its hash.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SecretIdRecord {
    pub(super) accessor: String,
    /// Logins that are left; none where they are not counted.
    pub(super) uses_left: Option<NonZeroU64>,
    #[serde(with = "duration")]
    ttl: Duration,
    #[serde(with = "millis")]
    created_at: SystemTime,
    #[serde(with = "millis")]
    updated_at: SystemTime,
    #[serde(with = "millis::option")]
    pub(super) ends_at: Option<SystemTime>,
    cidr_list: Vec<Bound>,
    token_bound_cidrs: Vec<Cidr>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// What may be asked of a new secret id.
#[derive(Deserialize, JsonSchema)]
pub(super) struct SecretIdFields {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    pub(super) role_name: String,
    /// Free pairs that go into the metadata of tokens, as JSON text.
    #[serde(default)]
    metadata: Option<Metadata>,
    /// Networks that a login with it must come from; within those of the role.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    cidr_list: Option<Vec<Bound>>,
    /// Networks that its tokens are valid from; within those of the role.
    #[serde(default)]
    token_bound_cidrs: Option<Vec<Cidr>>,
    /// Logins that it is good for; at most what the role says.
    #[serde(default)]
    num_uses: Option<u64>,
    /// How long it lasts; at most what the role says.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    ttl: Option<Duration>,
}

/// The same with a secret id that the caller chose, as the OpenAPI document has it. A request is decoded in
/// two parts, because serde's flattening would lose the leniency of [`daypass_contract::Body`].
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct CustomSecretIdFields {
    /// The secret id.
    secret_id: Secret,
    #[serde(flatten)]
    fields: SecretIdFields,
}

/// A new secret id, shown this once.
#[derive(Serialize, JsonSchema)]
pub(super) struct NewSecretIdView {
    #[serde(serialize_with = "reveal")]
    pub(super) secret_id: Secret,
    secret_id_accessor: String,
    secret_id_num_uses: u64,
    secret_id_ttl: u64,
}

/// What is shown of a secret id.
#[derive(Serialize, JsonSchema)]
pub(super) struct SecretIdView {
    #[schemars(with = "Vec<String>")]
    cidr_list: Vec<Bound>,
    creation_time: String,
    expiration_time: String,
    last_updated_time: String,
    metadata: BTreeMap<String, String>,
    secret_id_accessor: String,
    secret_id_num_uses: u64,
    secret_id_ttl: u64,
    token_bound_cidrs: Vec<Cidr>,
}

impl SecretIdRecord {
    /// A secret id of `role` as `fields` ask for it, or why there cannot be one. `longest` caps its time.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`] where it would be more than the role gives.
    pub(super) fn new(
        role: &RoleRecord,
        fields: SecretIdFields,
        accessor: String,
        now: SystemTime,
        longest: Duration,
    ) -> Result<Self, BackendError> {
        let SecretIdFields {
            role_name: _,
            metadata,
            cidr_list,
            token_bound_cidrs,
            num_uses,
            ttl,
        } = fields;
        let settings = &role.settings;
        if !settings.bind_secret_id {
            return Err(BackendError::InvalidRequest(
                "bind_secret_id is not set on the role".into(),
            ));
        }
        let uses = num_uses.unwrap_or(settings.secret_id_num_uses);
        if exceeds(uses, settings.secret_id_num_uses) {
            return Err(BackendError::field(
                "num_uses",
                "cannot be higher than the role's secret_id_num_uses",
            ));
        }
        let ttl = ttl.unwrap_or(settings.secret_id_ttl);
        if exceeds(ttl, settings.secret_id_ttl) {
            return Err(BackendError::field(
                "ttl",
                "cannot be longer than the role's secret_id_ttl",
            ));
        }
        let ttl = ttl.min(longest);
        let cidr_list = cidr_list.unwrap_or_default();
        if !bound::within(
            &networks(&cidr_list),
            &networks(&settings.secret_id_bound_cidrs),
        ) {
            return Err(BackendError::field(
                "cidr_list",
                "must lie within the role's secret_id_bound_cidrs",
            ));
        }
        let token_bound_cidrs = token_bound_cidrs.unwrap_or_default();
        if !bound::within(&token_bound_cidrs, &role.token.token_bound_cidrs) {
            return Err(BackendError::field(
                "token_bound_cidrs",
                "must lie within the role's token_bound_cidrs",
            ));
        }
        Ok(Self {
            accessor,
            uses_left: NonZeroU64::new(uses),
            ttl,
            created_at: now,
            updated_at: now,
            ends_at: Some(ttl).filter(|ttl| !ttl.is_zero()).map(|ttl| now + ttl),
            cidr_list,
            token_bound_cidrs,
            metadata: metadata.unwrap_or_default().0,
        })
    }

    /// The same after a login that left so many.
    pub(super) fn used(&self, left: NonZeroU64, now: SystemTime) -> Self {
        Self {
            uses_left: Some(left),
            updated_at: now,
            ..self.clone()
        }
    }

    /// Whether it has not ended.
    pub(super) fn lives(&self, now: SystemTime) -> bool {
        self.ends_at.is_none_or(|end| now < end)
    }

    /// The networks of a token made by it, where a login from `address` is within its own and within what
    /// its role says today.
    pub(super) fn admit(&self, role: &RoleRecord, address: Option<IpAddr>) -> Option<Vec<Cidr>> {
        let outer = &role.token.token_bound_cidrs;
        let token: Vec<Cidr> = self
            .token_bound_cidrs
            .iter()
            .filter(|bound| bound::within(&[**bound], outer))
            .copied()
            .collect();
        // None of its networks is the role's any more: there is nowhere its tokens could be used.
        let none_left = token.is_empty() && !self.token_bound_cidrs.is_empty();
        let token = if token.is_empty() {
            outer.clone()
        } else {
            token
        };
        (!none_left && Bound::admit(&self.cidr_list, address) && Cidr::admit(&token, address))
            .then_some(token)
    }

    /// The answer that delivers `secret_id`.
    pub(super) fn deliver(&self, secret_id: Secret) -> NewSecretIdView {
        NewSecretIdView {
            secret_id,
            secret_id_accessor: self.accessor.clone(),
            secret_id_num_uses: self.uses_left.map_or(0, NonZeroU64::get),
            secret_id_ttl: self.ttl.as_secs(),
        }
    }

    /// What is shown of it.
    pub(super) fn view(&self) -> SecretIdView {
        SecretIdView {
            cidr_list: self.cidr_list.clone(),
            creation_time: text(self.created_at),
            expiration_time: self.ends_at.map_or_else(|| NEVER.to_owned(), text),
            last_updated_time: text(self.updated_at),
            metadata: self.metadata.clone(),
            secret_id_accessor: self.accessor.clone(),
            secret_id_num_uses: self.uses_left.map_or(0, NonZeroU64::get),
            secret_id_ttl: self.ttl.as_secs(),
            token_bound_cidrs: self.token_bound_cidrs.clone(),
        }
    }
}

/// Whether `asked` is more than `most`, where nothing of either means without limit.
fn exceeds<T: Default + PartialOrd>(asked: T, most: T) -> bool {
    let none = T::default();
    most != none && (asked == none || asked > most)
}

fn networks(bounds: &[Bound]) -> Vec<Cidr> {
    bounds.iter().map(Bound::network).collect()
}

fn text(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_more_than_any_limit() {
        let cases = [
            (0, 0, false),
            (5, 0, false),
            (0, 5, true),
            (6, 5, true),
            (5, 5, false),
        ];
        for (asked, most, want) in cases {
            assert_eq!(exceeds(asked, most), want, "{asked} of {most}");
        }
    }
}
