//! Roles: created, changed, listed, deleted; and their role ids.

use std::sync::Arc;

use daypass_contract::{
    BackendError, BackendRoutes, Batch, Body, Call, Keys, ListRequest, Operation, Reply,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AppRole;
use super::role::{RoleRecord, RoleRequest, RoleView};
use super::store::{self, FoundRole, Pointer};
use crate::again::until_settled;
use crate::name;
use crate::strict::refuse_unknown;

/// What hvac calls `local_secret_ids`; OpenBao does not know it either.
const IGNORED: &[&str] = &["enable_local_secret_ids"];

/// A request about a role.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RoleName {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    pub(super) role_name: String,
}

#[derive(Deserialize, JsonSchema)]
struct RoleIdRequest {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    role_name: String,
    /// The role id that logins will use from now on.
    role_id: String,
}

#[derive(Serialize, JsonSchema)]
struct RoleIdView {
    role_id: String,
}

pub(super) fn declare(backend: &Arc<AppRole>, routes: &mut BackendRoutes) {
    use Operation::{Delete, List, Read, Write};
    let role = "role/{role_name}";
    routes.answer(backend, List, "role", "Lists roles.", AppRole::list_roles);
    routes.answer(backend, Read, role, "Reads a role.", AppRole::read_role);
    routes.answer(
        backend,
        Write,
        role,
        "Creates or changes a role.",
        AppRole::write_role,
    );
    routes.answer(
        backend,
        Delete,
        role,
        "Deletes a role and its secret ids.",
        AppRole::delete_role,
    );
    let role_id = "role/{role_name}/role-id";
    routes.answer(
        backend,
        Read,
        role_id,
        "Reads the role id.",
        AppRole::read_role_id,
    );
    routes.answer(
        backend,
        Write,
        role_id,
        "Sets the role id.",
        AppRole::write_role_id,
    );
}

impl AppRole {
    async fn list_roles(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Keys>, BackendError> {
        Reply::keys(
            crate::names(
                &self.host,
                store::NAMES,
                request.after.as_deref(),
                request.limit,
            )
            .await?,
        )
    }

    async fn read_role(
        self: Arc<Self>,
        _: Call,
        request: RoleName,
    ) -> Result<Reply<RoleView>, BackendError> {
        let found = self.need_role(&request.role_name).await?;
        Reply::data(&found.record.view()?)
    }

    async fn write_role(
        self: Arc<Self>,
        call: Call,
        request: RoleRequest,
    ) -> Result<Reply<()>, BackendError> {
        refuse_unknown::<RoleRequest>(&call.body, IGNORED)?;
        let (name, role_id) = (&request.role.role_name, request.role.role_id.as_deref());
        let role_id = role_id.filter(|role_id| !role_id.is_empty());
        let record = until_settled(|| async {
            let old = self.role_named(name).await?;
            let is_new = old.is_none();
            let mut record = match &old {
                Some(old) => old.record.clone(),
                None => self.new_role(name)?,
            };
            record.update(&call.body, is_new)?;
            if let Some(role_id) = role_id {
                role_id.clone_into(&mut record.role_id);
            }
            self.save_role(old.as_ref(), record).await
        })
        .await?;
        let longest = self.host.system.max_ttl();
        let mut reply = Reply::nothing();
        for (field, ttl) in [
            ("token_max_ttl", record.token.token_max_ttl),
            ("token_period", record.token.token_period),
        ] {
            if ttl > longest {
                let longest = longest.as_secs();
                reply = reply.warn(format!(
                    "{field} is greater than the mount's maximum TTL: tokens last {longest} s at most"
                ));
            }
        }
        Ok(reply)
    }

    async fn delete_role(
        self: Arc<Self>,
        _: Call,
        request: RoleName,
    ) -> Result<Reply<()>, BackendError> {
        let deleted = until_settled(|| async {
            let Some(found) = self.role_named(&request.role_name).await? else {
                return Ok(None);
            };
            // From here on nobody logs in with it; what is left to remove is remembered.
            let role = store::role(&found.hash);
            let batch = Batch::new()
                .expect(role.clone(), Some(found.revision))
                .delete(role)
                .delete(store::name(&found.record.name))
                .put(store::purge(&found.record.key), store::nothing());
            self.host.store.apply(batch).await?;
            Ok(Some(found.record.key))
        })
        .await?;
        if let Some(key) = deleted {
            self.purge_role(&key).await?;
        }
        Ok(Reply::nothing())
    }

    async fn read_role_id(
        self: Arc<Self>,
        _: Call,
        request: RoleName,
    ) -> Result<Reply<RoleIdView>, BackendError> {
        let found = self.need_role(&request.role_name).await?;
        Reply::data(&RoleIdView {
            role_id: found.record.role_id,
        })
    }

    async fn write_role_id(
        self: Arc<Self>,
        _: Call,
        request: RoleIdRequest,
    ) -> Result<Reply<()>, BackendError> {
        if request.role_id.is_empty() {
            return Err(BackendError::field("role_id", "must not be empty"));
        }
        until_settled(|| async {
            let found = self.need_role(&request.role_name).await?;
            let mut record = found.record.clone();
            record.role_id.clone_from(&request.role_id);
            self.save_role(Some(&found), record).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    /// Changes a role that exists as `body`, which names its fields, says.
    pub(super) async fn change_role(&self, name: &str, body: &Body) -> Result<(), BackendError> {
        until_settled(|| async {
            let found = self.need_role(name).await?;
            let mut record = found.record.clone();
            record.update(body, false)?;
            self.save_role(Some(&found), record).await
        })
        .await
        .map(drop)
    }

    fn new_role(&self, named: &str) -> Result<RoleRecord, BackendError> {
        name::check("role_name", named)?;
        let entropy = &*self.host.entropy;
        let key = hex::encode(entropy.bytes::<16>());
        Ok(RoleRecord::new(
            named.to_owned(),
            key,
            store::random_id(entropy),
        ))
    }

    /// Writes a role in place of `old`, under its role id.
    async fn save_role(
        &self,
        old: Option<&FoundRole>,
        record: RoleRecord,
    ) -> Result<RoleRecord, BackendError> {
        let hash = self.hash_role_id(&record.role_id);
        let (name, role) = (store::name(&record.name), store::role(&hash));
        let moves = old.is_none_or(|old| old.hash != hash);
        if moves && self.host.store.get(&role).await?.is_some() {
            return Err(BackendError::field("role_id", "already in use"));
        }
        let mut batch = Batch::new();
        batch = match old {
            None => batch.expect(name.clone(), None),
            Some(old) => batch.expect(store::role(&old.hash), Some(old.revision)),
        };
        if moves {
            if let Some(old) = old {
                batch = batch.delete(store::role(&old.hash));
            }
            batch = batch.expect(role.clone(), None);
            batch = batch.put_json(name, &Pointer { hash })?;
        }
        self.host
            .store
            .apply(batch.put_json(role, &record)?)
            .await?;
        Ok(record)
    }
}
