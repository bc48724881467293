//! Secret ids: made, listed, looked up and destroyed.

use std::sync::Arc;

use daypass_contract::{
    BackendError, BackendRoutes, Batch, Call, Keys, Operation, Reply, Secret, millis,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::schema;
use super::secret_id::{
    CustomSecretIdFields, NewSecretIdView, SecretIdFields, SecretIdRecord, SecretIdView,
};
use super::store::{self, End, FoundSecretId, Pointer};
use super::{AppRole, only_looks};
use crate::again::until_settled;
use crate::name;
use crate::strict::refuse_unknown;

/// A secret id of fewer bytes may be within reach of guessing.
const SHORT: usize = 20;

#[derive(Deserialize, JsonSchema)]
struct SecretIdRequest {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    role_name: String,
    /// The secret id.
    secret_id: Secret,
}

#[derive(Deserialize, JsonSchema)]
struct AccessorRequest {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    role_name: String,
    /// What stands for the secret id.
    secret_id_accessor: String,
}

#[derive(Deserialize, JsonSchema)]
struct AccessorsRequest {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    role_name: String,
    /// Start after this accessor.
    after: Option<String>,
    /// At most this many.
    limit: Option<usize>,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

pub(super) fn declare(backend: &Arc<AppRole>, routes: &mut BackendRoutes) {
    use Operation::{Delete, List, Write};
    let pattern = "role/{role_name}/secret-id";
    routes.answer(
        backend,
        List,
        pattern,
        "Lists the accessors of a role's secret ids.",
        AppRole::list_accessors,
    );
    routes.answer(
        backend,
        Write,
        pattern,
        "Makes a secret id.",
        AppRole::generate,
    );
    routes
        .answer(
            backend,
            Write,
            "role/{role_name}/custom-secret-id",
            "Takes a secret id that the caller chose.",
            AppRole::take_over,
        )
        .request = schema::<CustomSecretIdFields>;
    only_looks(routes.answer(
        backend,
        Write,
        "role/{role_name}/secret-id/lookup",
        "Shows the properties of a secret id.",
        AppRole::look_up,
    ));
    only_looks(routes.answer(
        backend,
        Write,
        "role/{role_name}/secret-id-accessor/lookup",
        "Shows the properties of the secret id of an accessor.",
        AppRole::look_up_accessor,
    ));
    for operation in [Write, Delete] {
        routes.answer(
            backend,
            operation,
            "role/{role_name}/secret-id/destroy",
            "Destroys a secret id.",
            AppRole::destroy,
        );
        routes.answer(
            backend,
            operation,
            "role/{role_name}/secret-id-accessor/destroy",
            "Destroys the secret id of an accessor.",
            AppRole::destroy_accessor,
        );
    }
}

impl AppRole {
    async fn list_accessors(
        self: Arc<Self>,
        _: Call,
        request: AccessorsRequest,
    ) -> Result<Reply<Keys>, BackendError> {
        let found = self.need_role(&request.role_name).await?;
        let prefix = store::accessors(&found.record.key);
        Reply::keys(
            crate::names(&self.host, &prefix, request.after.as_deref(), request.limit).await?,
        )
    }

    async fn generate(
        self: Arc<Self>,
        call: Call,
        request: SecretIdFields,
    ) -> Result<Reply<NewSecretIdView>, BackendError> {
        refuse_unknown::<SecretIdFields>(&call.body, &[])?;
        let secret_id = Secret::new(store::random_id(&*self.host.entropy));
        self.add(call, &request.role_name, secret_id).await
    }

    async fn take_over(
        self: Arc<Self>,
        call: Call,
        request: SecretIdRequest,
    ) -> Result<Reply<NewSecretIdView>, BackendError> {
        refuse_unknown::<CustomSecretIdFields>(&call.body, &[])?;
        let secret_id = request.secret_id;
        if secret_id.is_empty() {
            return Err(BackendError::field("secret_id", "must not be empty"));
        }
        let is_short = secret_id.len() < SHORT;
        let reply = self.add(call, &request.role_name, secret_id).await?;
        Ok(if is_short {
            reply.warn(format!(
                "secret_id is shorter than {SHORT} bytes: failed logins are not counted, so make sure that \
                 it cannot be guessed, or let the server choose it"
            ))
        } else {
            reply
        })
    }

    async fn add(
        &self,
        call: Call,
        role_name: &str,
        secret_id: Secret,
    ) -> Result<Reply<NewSecretIdView>, BackendError> {
        let accessor = store::random_id(&*self.host.entropy);
        let longest = self.host.system.max_ttl();
        let record = until_settled(|| async {
            let role = self.need_role(role_name).await?;
            let record = SecretIdRecord::new(
                &role.record,
                call.body.decode()?,
                accessor.clone(),
                call.now,
                longest,
            )?;
            let hash = self.hash_secret_id(&role.record, &secret_id);
            let key = store::secret_id(&role.record.key, &hash);
            if self.host.store.get(&key).await?.is_some() {
                return Err(BackendError::field("secret_id", "is already registered"));
            }
            // On condition that the role is what the record was checked against, and still there.
            let mut batch = Batch::new()
                .expect(store::role(&role.hash), Some(role.revision))
                .expect(key.clone(), None)
                .put_json(key, &record)?;
            if let Some(end) = record.ends_at {
                let end = End {
                    at: millis::of(end),
                    role: role.record.key.clone(),
                    hash: hash.clone(),
                };
                batch = batch.put(end.key(), store::nothing());
            }
            let accessor = store::accessor(&role.record.key, &record.accessor);
            let batch = batch.put_json(accessor, &Pointer { hash })?;
            self.host.store.apply(batch).await?;
            Ok(record)
        })
        .await?;
        Reply::data(&record.deliver(secret_id))
    }

    async fn look_up(
        self: Arc<Self>,
        call: Call,
        request: SecretIdRequest,
    ) -> Result<Reply<SecretIdView>, BackendError> {
        let found = self.find(&request).await?.map(|(_, found)| found.record);
        match found.filter(|record| record.lives(call.now)) {
            Some(record) => Reply::data(&record.view()),
            // As OpenBao says it.
            None => Ok(Reply::nothing()),
        }
    }

    async fn look_up_accessor(
        self: Arc<Self>,
        call: Call,
        request: AccessorRequest,
    ) -> Result<Reply<SecretIdView>, BackendError> {
        let found = self.find_accessor(&request).await?;
        let record = found
            .map(|(_, found)| found.record)
            .filter(|record| record.lives(call.now))
            .ok_or(BackendError::NotFound)?;
        Reply::data(&record.view())
    }

    async fn destroy(
        self: Arc<Self>,
        _: Call,
        request: SecretIdRequest,
    ) -> Result<Reply<()>, BackendError> {
        until_settled(|| async {
            match self.find(&request).await? {
                Some((role, found)) => self.remove(&role, &found).await,
                None => Ok(()),
            }
        })
        .await?;
        Ok(Reply::nothing())
    }

    async fn destroy_accessor(
        self: Arc<Self>,
        _: Call,
        request: AccessorRequest,
    ) -> Result<Reply<()>, BackendError> {
        until_settled(|| async {
            let found = self.find_accessor(&request).await?;
            let (role, found) = found.ok_or(BackendError::NotFound)?;
            self.remove(&role, &found).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    /// The secret id with the key of its role.
    async fn find(
        &self,
        request: &SecretIdRequest,
    ) -> Result<Option<(String, FoundSecretId)>, BackendError> {
        let role = self.need_role(&request.role_name).await?.record;
        let hash = self.hash_secret_id(&role, &request.secret_id);
        let found = self.secret_id_with_hash(&role.key, hash).await?;
        Ok(found.map(|found| (role.key, found)))
    }

    async fn find_accessor(
        &self,
        request: &AccessorRequest,
    ) -> Result<Option<(String, FoundSecretId)>, BackendError> {
        let role = self.need_role(&request.role_name).await?.record;
        let accessor = &request.secret_id_accessor;
        let found = self.secret_id_of_accessor(&role.key, accessor).await?;
        Ok(found.map(|found| (role.key, found)))
    }

    async fn remove(&self, role: &str, found: &FoundSecretId) -> Result<(), BackendError> {
        let batch = store::remove(Batch::new(), role, found);
        Ok(self.host.store.apply(batch).await?)
    }
}
