//! Endpoints for single fields of a role, declared from one table.
//!
//! **Invariant:** writing a field here is a write of the role that names this field alone, and deleting it
//! writes what a new role has.

use std::sync::Arc;

use daypass_contract::{BackendError, BackendRoutes, Body, Call, Operation, Reply};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::AppRole;
use super::role::{RoleRecord, RoleRequest, RoleView};
use super::roles::RoleName;

/// An endpoint for one field.
#[derive(Debug)]
pub(super) struct Field {
    /// Its path.
    pub(super) pattern: &'static str,
    /// The field of the role, last; before it, its earlier name where the endpoint takes that too.
    pub(super) names: &'static [&'static str],
    /// Whether it can be set.
    pub(super) can_change: bool,
    request: fn() -> Schema,
    response: fn() -> Schema,
}

macro_rules! field {
    ($segment:literal, $($name:literal),+) => {
        Field {
            pattern: concat!("role/{role_name}/", $segment),
            names: &[$($name),+],
            can_change: true,
            request: || only::<RoleRequest>(&["role_name", $($name),+]),
            response: || only::<RoleView>(&[$($name),+]),
        }
    };
}

pub(super) const FIELDS: &[Field] = &[
    field!("bind-secret-id", "bind_secret_id"),
    field!(
        "bound-cidr-list",
        "bound_cidr_list",
        "secret_id_bound_cidrs"
    ),
    Field {
        can_change: false,
        ..field!("local-secret-ids", "local_secret_ids")
    },
    field!("period", "period", "token_period"),
    field!("policies", "policies", "token_policies"),
    field!("secret-id-bound-cidrs", "secret_id_bound_cidrs"),
    field!("secret-id-num-uses", "secret_id_num_uses"),
    field!("secret-id-ttl", "secret_id_ttl"),
    field!("token-bound-cidrs", "token_bound_cidrs"),
    field!("token-max-ttl", "token_max_ttl"),
    field!("token-num-uses", "token_num_uses"),
    field!("token-period", "token_period"),
    field!("token-policies", "token_policies"),
    field!("token-ttl", "token_ttl"),
];

pub(super) fn declare(backend: &Arc<AppRole>, routes: &mut BackendRoutes) {
    for field in FIELDS {
        routes
            .answer(
                backend,
                Operation::Read,
                field.pattern,
                "Reads a field of a role.",
                |backend, _, request: RoleName| backend.read_field(field, request),
            )
            .response = field.response;
        if !field.can_change {
            continue;
        }
        routes
            .answer(
                backend,
                Operation::Write,
                field.pattern,
                "Sets a field of a role.",
                |backend, call, _: RoleName| backend.write_field(field, call),
            )
            .request = field.request;
        routes.answer(
            backend,
            Operation::Delete,
            field.pattern,
            "Sets a field of a role to what a new role has.",
            |backend, _, request: RoleName| backend.delete_field(field, request),
        );
    }
}

impl Field {
    fn name(&self) -> &'static str {
        self.names.last().copied().unwrap_or_default()
    }
}

impl AppRole {
    async fn read_field(
        self: Arc<Self>,
        field: &Field,
        request: RoleName,
    ) -> Result<Reply<Map<String, Value>>, BackendError> {
        let found = self.need_role(&request.role_name).await?;
        let value = value(&found.record, field)?;
        let data = field
            .names
            .iter()
            .map(|name| ((*name).to_owned(), value.clone()))
            .collect();
        let mut reply = Reply::data(&data)?;
        if field.names.first() == Some(&"bound_cidr_list") {
            reply = reply.warn(
                "The \"bound_cidr_list\" field is deprecated and will be removed. Please use \
                 \"secret_id_bound_cidrs\" instead.",
            );
        }
        Ok(reply)
    }

    async fn write_field(
        self: Arc<Self>,
        field: &Field,
        call: Call,
    ) -> Result<Reply<()>, BackendError> {
        let role: RoleName = call.body.decode()?;
        let given = call
            .body
            .fields()
            .iter()
            .filter(|(name, value)| field.names.contains(&name.as_str()) && !value.is_null());
        let mut only: Map<String, Value> = given
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if only.is_empty() {
            return Err(BackendError::field(field.name(), "is required"));
        }
        only.insert("role_name".into(), role.role_name.as_str().into());
        let only = Body::new(only);
        // An error names the field as the caller does.
        only.decode::<RoleRequest>()?;
        self.change_role(&role.role_name, &only).await?;
        Ok(Reply::nothing())
    }

    async fn delete_field(
        self: Arc<Self>,
        field: &Field,
        request: RoleName,
    ) -> Result<Reply<()>, BackendError> {
        let new = RoleRecord::new(String::new(), String::new(), String::new());
        let value = match value(&new, field)? {
            // `null` in a request says nothing.
            Value::Null => json!([]),
            value => value,
        };
        let mut body = Body::default();
        body.set("role_name", request.role_name.as_str());
        body.set(field.name(), value);
        match self.change_role(&request.role_name, &body).await {
            // What is not there has no field to delete.
            Ok(()) | Err(BackendError::NotFound) => Ok(Reply::nothing()),
            Err(error) => Err(error),
        }
    }
}

fn value(role: &RoleRecord, field: &Field) -> Result<Value, BackendError> {
    let mut fields = role.view()?.fields()?;
    fields
        .remove(field.name())
        .ok_or_else(|| BackendError::Internal("role has no such field".into()))
}

/// The schema of `T` with these properties alone.
fn only<T: JsonSchema>(names: &[&str]) -> Schema {
    let mut schema = schema::<T>();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| names.contains(&name.as_str()));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name.as_str().is_some_and(|name| names.contains(&name)));
    }
    schema
}

/// The schema of `T`, as an endpoint has it.
pub(super) fn schema<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}
