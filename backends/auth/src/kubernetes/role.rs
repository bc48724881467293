//! Roles: which service accounts are let in, and what the tokens that they get are like.
//!
//! **Invariant:** a role names service accounts or namespaces; one that lets in every account of every
//! namespace is refused.

use daypass_contract::{BackendError, TokenParameters};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::federated::is_open;
use daypass_certs::glob;

/// What names the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AliasNameSource {
    /// The service account's unique id, which a new account of the same name does not get.
    #[default]
    ServiceaccountUid,
    /// `namespace/name`.
    ServiceaccountName,
}

/// A role as it is stored and shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Role {
    /// Names of service accounts; `*` stands for anything.
    pub(crate) bound_service_account_names: Vec<String>,
    /// Their namespaces; `*` stands for anything.
    pub(crate) bound_service_account_namespaces: Vec<String>,
    /// What the token must have been made for; the API server's own audience where it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) audience: String,
    /// What names the caller.
    pub(crate) alias_name_source: AliasNameSource,
    /// What the token is like.
    #[serde(flatten)]
    pub(crate) token: TokenParameters,
}

/// A request to set some of it.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RoleFields {
    /// The role.
    pub(crate) name: String,
    /// Names of service accounts; `*` stands for anything.
    bound_service_account_names: Option<Vec<String>>,
    /// Their namespaces; `*` stands for anything.
    bound_service_account_namespaces: Option<Vec<String>>,
    /// What the token must have been made for.
    audience: Option<String>,
    /// `serviceaccount_uid` or `serviceaccount_name`.
    alias_name_source: Option<AliasNameSource>,
}

impl Role {
    /// Takes over what a request gives and checks that it fits together.
    ///
    /// # Errors
    /// What does not fit, naming the field.
    pub(crate) fn update(&mut self, fields: RoleFields) -> Result<(), BackendError> {
        let RoleFields {
            name: _,
            bound_service_account_names,
            bound_service_account_namespaces,
            audience,
            alias_name_source,
        } = fields;
        set(
            &mut self.bound_service_account_names,
            bound_service_account_names,
        );
        set(
            &mut self.bound_service_account_namespaces,
            bound_service_account_namespaces,
        );
        set(&mut self.audience, audience);
        set(&mut self.alias_name_source, alias_name_source);
        let lists = [
            (
                "bound_service_account_names",
                &self.bound_service_account_names,
            ),
            (
                "bound_service_account_namespaces",
                &self.bound_service_account_namespaces,
            ),
        ];
        let open = |list: &[String]| list.iter().any(|name| is_open(name));
        for (field, list) in lists {
            if list.is_empty() {
                return Err(BackendError::field(field, "can not be empty"));
            }
            if open(list) && list.len() > 1 {
                return Err(BackendError::field(field, "can not mix \"*\" with values"));
            }
        }
        if lists.iter().all(|(_, list)| open(list)) {
            return Err(BackendError::InvalidRole(
                "bound_service_account_names and bound_service_account_namespaces are both \"*\": \
                 every pod of the cluster could log in; name accounts or namespaces"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Whether that service account is let in.
    ///
    /// # Errors
    /// [`BackendError::LoginFailed`] where it is not.
    pub(crate) fn admit(&self, namespace: &str, name: &str) -> Result<(), BackendError> {
        let fits = |list: &[String], text| list.iter().any(|pattern| glob(pattern, text));
        if !fits(&self.bound_service_account_namespaces, namespace) {
            return Err(BackendError::LoginFailed("namespace not authorized"));
        }
        if !fits(&self.bound_service_account_names, name) {
            return Err(BackendError::LoginFailed(
                "service account name not authorized",
            ));
        }
        Ok(())
    }
}

fn set<T>(target: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *target = given;
    }
}
