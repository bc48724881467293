//! Roles: what an operator lets a connection issue.

use std::fmt;
use std::time::Duration;

use daypass_contract::body::SAFE;
use daypass_contract::{BackendError, TtlWish, duration};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::engine::Statements;
use crate::statements::unpack;

/// How a role is stored.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) db_name: String,
    #[serde(flatten)]
    pub(crate) statements: Statements,
    #[serde(with = "duration::option")]
    pub(crate) default_ttl: Option<Duration>,
    #[serde(with = "duration::option")]
    pub(crate) max_ttl: Option<Duration>,
}

/// What a role is written with. A field that is not sent keeps its value.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RoleRequest {
    pub(crate) name: String,
    /// The connection, as in `config/{name}`.
    db_name: Option<String>,
    /// SQL that makes an account: a string or a list, with `{{name}}`, `{{password}}` and
    /// `{{expiration}}`.
    creation_statements: Option<Sql>,
    /// SQL that removes an account; without it, everything the account owns is handed over and it is
    /// dropped.
    revocation_statements: Option<Sql>,
    /// Kept for clients that send it; creation is one transaction, so there is nothing to roll back.
    rollback_statements: Option<Sql>,
    /// SQL that extends an account; without it, `VALID UNTIL` is moved.
    renew_statements: Option<Sql>,
    /// How long a lease lasts; the mount's default without it.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    default_ttl: Option<Duration>,
    /// How long a lease may last at most, renewals included.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    max_ttl: Option<Duration>,
    /// `password`.
    credential_type: Option<String>,
}

/// What a role reads as.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RoleView {
    db_name: String,
    creation_statements: Vec<String>,
    revocation_statements: Vec<String>,
    rollback_statements: Vec<String>,
    renew_statements: Vec<String>,
    #[serde(with = "duration::option")]
    #[schemars(with = "u64")]
    default_ttl: Option<Duration>,
    #[serde(with = "duration::option")]
    #[schemars(with = "u64")]
    max_ttl: Option<Duration>,
    credential_type: &'static str,
}

/// Statements as a request may hold them. Not a list in the sense of other fields: SQL is full of commas.
#[derive(Default)]
pub(crate) struct Sql(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Sql {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("SQL or a list of it")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(vec![text.to_owned()])
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(list)
            }
        }
        let items = deserializer.deserialize_any(Items)?;
        if items.iter().any(|item| item.contains('\0')) {
            return Err(de::Error::custom(format!("{SAFE}SQL cannot hold a NUL")));
        }
        Ok(Self(unpack(items)))
    }
}

impl JsonSchema for Sql {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sql".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
        })
    }
}

/// The storage key of a role.
pub(crate) fn key(name: &str) -> String {
    format!("roles/{name}")
}

impl Role {
    /// The role that `request` makes of this one.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`], which names the field and the fix.
    pub(crate) fn update(mut self, request: RoleRequest) -> Result<Self, BackendError> {
        if request
            .credential_type
            .is_some_and(|kind| kind != "password")
        {
            return Err(BackendError::field("credential_type", "expected password"));
        }
        let statements = &mut self.statements;
        let updates = [
            (request.creation_statements, &mut statements.creation),
            (request.revocation_statements, &mut statements.revocation),
            (request.rollback_statements, &mut statements.rollback),
            (request.renew_statements, &mut statements.renew),
        ];
        for (Sql(given), kept) in updates.into_iter().filter_map(|(a, b)| Some((a?, b))) {
            *kept = given;
        }
        self.db_name = request.db_name.unwrap_or(self.db_name);
        self.default_ttl = request.default_ttl.or(self.default_ttl);
        self.max_ttl = request.max_ttl.or(self.max_ttl);
        if self.db_name.is_empty() {
            return Err(BackendError::field("db_name", "is required"));
        }
        if self.statements.creation.is_empty() {
            return Err(BackendError::field("creation_statements", "is required"));
        }
        let wish = self.ttl();
        if let (Some(default), Some(max)) = (wish.default, wish.max)
            && default > max
        {
            return Err(BackendError::field("default_ttl", "is above max_ttl"));
        }
        Ok(self)
    }

    /// What the role says about the length of a lease. Zero says nothing, as the Vault API has it.
    pub(crate) fn ttl(&self) -> TtlWish {
        let said = |ttl: Option<Duration>| ttl.filter(|ttl| !ttl.is_zero());
        TtlWish {
            asked: None,
            default: said(self.default_ttl),
            max: said(self.max_ttl),
        }
    }

    pub(crate) fn into_view(self) -> RoleView {
        RoleView {
            db_name: self.db_name,
            creation_statements: self.statements.creation,
            revocation_statements: self.statements.revocation,
            rollback_statements: self.statements.rollback,
            renew_statements: self.statements.renew,
            default_ttl: self.default_ttl,
            max_ttl: self.max_ttl,
            credential_type: "password",
        }
    }
}
