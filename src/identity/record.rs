//! What is stored about entities, aliases and groups, and where.
//!
//! An entity's record holds its aliases and its memberships, so that one read tells all about a
//! principal; a group's record holds which groups it is made of and which it is part of. Everything else
//! is an index: by name, by alias, by member.
//!
//! Names of the caller's choice are percent-encoded in keys; ids are checked by [`is_id`] before they
//! become part of one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use daypass_contract::millis;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// One human or non-human identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Names it for ever.
    pub id: String,
    /// For people; unique without regard to case.
    pub name: String,
    /// Free key-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// Names of policies, sorted, each once.
    pub policies: Vec<String>,
    /// It may do nothing.
    pub disabled: bool,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where it belongs: `production`, `ci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// From then on it may do nothing.
    #[serde(
        with = "millis::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ends_at: Option<SystemTime>,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    /// When it was last changed.
    #[serde(with = "millis")]
    pub updated_at: SystemTime,
    /// Ids of entities that were merged into it; what was issued to them is its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged_ids: Vec<String>,
    /// Its names in auth methods, at most one per mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
    /// The groups it is a direct member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) memberships: Vec<Membership>,
}

impl Entity {
    /// Whether it may do nothing at `now`.
    pub fn is_withdrawn(&self, now: SystemTime) -> bool {
        self.disabled || self.ends_at.is_some_and(|end| end <= now)
    }

    /// Its alias in one mount.
    pub fn alias_at(&self, accessor: &str) -> Option<&Alias> {
        self.aliases
            .iter()
            .find(|alias| alias.mount_accessor == accessor)
    }

    /// Every id under which something may have been issued to it.
    pub fn all_ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.merged_ids.iter().map(String::as_str))
    }

    /// Makes it a member, once.
    pub(super) fn join(&mut self, membership: Membership) {
        if !self.memberships.contains(&membership) {
            self.memberships.push(membership);
        }
    }

    /// Ends its membership.
    pub(super) fn leave(&mut self, group: &str) {
        self.memberships
            .retain(|membership| membership.group != group);
    }
}

/// The name of an entity in one auth method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alias {
    /// Names it for ever.
    pub id: String,
    /// As the auth method says it; case counts.
    pub name: String,
    /// The mount of the auth method.
    pub mount_accessor: String,
    /// The mount's path when the alias was last written.
    pub mount_path: String,
    /// The mount's kind.
    pub mount_type: String,
    /// What the auth method said at the last login.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What an operator said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_metadata: BTreeMap<String, String>,
    /// Ids of entities it belonged to before they were merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged_from: Vec<String>,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    /// When it was last changed.
    #[serde(with = "millis")]
    pub updated_at: SystemTime,
}

/// That an entity belongs to a group.
///
/// **Invariant:** a membership of an external group counts only while `via` is the group's alias. Giving
/// the group another alias, or none, ends every membership in the same step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) group: String,
    /// The name of the group at an auth method that vouched for it at the last login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) via: Option<Via>,
}

/// A group's name in an auth method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Via {
    pub(super) accessor: String,
    pub(super) name: String,
}

/// Who decides about a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// An operator does.
    Internal,
    /// An auth method does, at each login.
    External,
}

impl GroupKind {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// Entities and groups with the same policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Names it for ever.
    pub id: String,
    /// For people; unique without regard to case.
    pub name: String,
    /// Who decides about its members.
    pub kind: GroupKind,
    /// Names of policies, sorted, each once.
    pub policies: Vec<String>,
    /// Free key-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// Its name in an auth method; of an external group only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<GroupAlias>,
    /// Ids of the groups whose members are its members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_groups: Vec<String>,
    /// Ids of the groups it is a member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// How often it was changed.
    pub modify_index: u64,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    /// When it was last changed.
    #[serde(with = "millis")]
    pub updated_at: SystemTime,
}

impl Group {
    /// Whether a membership of this group counts.
    pub(super) fn honours(&self, membership: &Membership) -> bool {
        match (&membership.via, &self.alias) {
            (None, None) => self.kind == GroupKind::Internal,
            (Some(via), Some(alias)) => {
                via.accessor == alias.mount_accessor && via.name == alias.name
            }
            _ => false,
        }
    }
}

/// The name of an external group in one auth method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupAlias {
    /// Names it for ever.
    pub id: String,
    /// As the auth method says it; case counts.
    pub name: String,
    /// The mount of the auth method.
    pub mount_accessor: String,
    /// The mount's path when the alias was last written.
    pub mount_path: String,
    /// The mount's kind.
    pub mount_type: String,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    /// When it was last changed.
    #[serde(with = "millis")]
    pub updated_at: SystemTime,
}

/// The row of a name: whose it is, and how it was written.
#[derive(Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) id: String,
    pub(super) name: String,
}

/// Whether `text` can be an id: what cannot is of nobody, and never part of a key.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

pub(super) const ENTITIES: &str = "identity/entity/r/";
pub(super) const ENTITY_NAMES: &str = "identity/entity/n/";
pub(super) const ALIASES: &str = "identity/alias/i/";
pub(super) const GROUPS: &str = "identity/group/r/";
pub(super) const GROUP_NAMES: &str = "identity/group/n/";
pub(super) const GROUP_ALIASES: &str = "identity/group-alias/i/";

pub(super) fn entity_key(id: &str) -> String {
    format!("{ENTITIES}{id}")
}

pub(super) fn entity_name_key(name: &str) -> String {
    format!("{ENTITY_NAMES}{}", encoded(&name.to_lowercase()))
}

/// Where an entity that was merged into another says into which.
pub(super) fn merged_key(id: &str) -> String {
    format!("identity/entity/m/{id}")
}

/// Whose alias that is.
pub(super) fn alias_key(id: &str) -> String {
    format!("{ALIASES}{id}")
}

pub(super) fn factor_prefix(accessor: &str) -> String {
    format!("identity/alias/f/{}/", encoded(accessor))
}

/// Who logs in under that name: what a login reads first.
pub(super) fn factor_key(accessor: &str, name: &str) -> String {
    format!("{}{}", factor_prefix(accessor), encoded(name))
}

pub(super) fn group_key(id: &str) -> String {
    format!("{GROUPS}{id}")
}

pub(super) fn group_name_key(name: &str) -> String {
    format!("{GROUP_NAMES}{}", encoded(&name.to_lowercase()))
}

pub(super) fn member_prefix(group: &str) -> String {
    format!("identity/group/m/{group}/")
}

/// That an entity is a direct member; the value says by which [`Via`], if any.
pub(super) fn member_key(group: &str, entity: &str) -> String {
    format!("{}{entity}", member_prefix(group))
}

/// Which group's alias that is.
pub(super) fn group_alias_key(id: &str) -> String {
    format!("{GROUP_ALIASES}{id}")
}

pub(super) fn group_factor_prefix(accessor: &str) -> String {
    format!("identity/group-alias/f/{}/", encoded(accessor))
}

pub(super) fn group_factor_key(accessor: &str, name: &str) -> String {
    format!("{}{}", group_factor_prefix(accessor), encoded(name))
}
