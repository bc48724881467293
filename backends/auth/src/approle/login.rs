//! The login, and the question that a renewal asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use daypass_contract::{
    Alias, BackendError, Batch, Call, Cidr, Handle, Login, Secret, TokenParameters,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AppRole;
use super::bound::Bound;
use super::role::RoleRecord;
use super::store::{self, FoundSecretId};
use crate::again::until_settled;

/// Whatever part of the proof was wrong.
const REFUSED: BackendError = BackendError::LoginFailed("invalid role or secret ID");

#[derive(Deserialize, JsonSchema)]
pub(super) struct LoginRequest {
    /// Which program it is.
    role_id: String,
    /// The proof, unless the role needs none.
    #[serde(default)]
    secret_id: Option<Secret>,
}

/// What a renewal asks about.
#[derive(Serialize, Deserialize)]
struct Renewal {
    role: String,
    /// Tells the role from a later one of the same name.
    key: String,
}

impl AppRole {
    pub(super) async fn login(
        self: Arc<Self>,
        call: Call,
        request: LoginRequest,
    ) -> Result<Login, BackendError> {
        let address = call.peer.address.map(|address| address.ip());
        let secret_id = request.secret_id.filter(|secret_id| !secret_id.is_empty());
        let role = self.role_with_id(&request.role_id).await?;
        let role = role.map(|found| found.record);
        let needs_none = |role: &RoleRecord| !role.settings.bind_secret_id;
        let (role, secret_id) = match (role, secret_id) {
            (Some(role), _) if needs_none(&role) => (role, None),
            // Said of a role id that does not exist as well.
            (_, None) => return Err(BackendError::InvalidRequest("missing secret_id".into())),
            (None, Some(_)) => return Err(REFUSED),
            (Some(role), secret_id) => (role, secret_id),
        };
        if !Bound::admit(&role.settings.secret_id_bound_cidrs, address) {
            return Err(REFUSED);
        }
        let (mut metadata, token_bound_cidrs) = match secret_id {
            Some(secret_id) => self.redeem(&role, &secret_id, call.now, address).await?,
            None => (BTreeMap::new(), role.token.token_bound_cidrs.clone()),
        };
        metadata.insert("role_name".into(), role.name.clone());
        Ok(Login {
            alias: Alias {
                name: role.role_id,
                metadata: BTreeMap::from([("role_name".to_owned(), role.name.clone())]),
            },
            display_name: String::new(),
            metadata,
            groups: Vec::new(),
            token: TokenParameters {
                token_bound_cidrs,
                ..role.token
            },
            renewal: Handle::encode(&Renewal {
                role: role.name,
                key: role.key,
            })?,
            warnings: Vec::new(),
        })
    }

    /// What a secret id gives to a login, with one use of it counted where uses are.
    async fn redeem(
        &self,
        role: &RoleRecord,
        secret_id: &Secret,
        now: SystemTime,
        address: Option<IpAddr>,
    ) -> Result<(BTreeMap<String, String>, Vec<Cidr>), BackendError> {
        let hash = self.hash_secret_id(role, secret_id);
        let usable = || async {
            let found = self.secret_id_with_hash(&role.key, hash.clone()).await?;
            let found = found
                .filter(|found| found.record.lives(now))
                .ok_or(REFUSED)?;
            // A login from elsewhere does not cost a use.
            let token = found.record.admit(role, address).ok_or(REFUSED)?;
            Ok::<_, BackendError>((found, token))
        };
        let (found, token) = usable().await?;
        if found.record.uses_left.is_none() {
            return Ok((found.record.metadata, token));
        }
        let _turn = self.turn(&hash).lock().await;
        until_settled(|| async {
            let (found, token) = usable().await?;
            self.count_use(role, &found, now).await?;
            Ok((found.record.metadata, token))
        })
        .await
    }

    async fn count_use(
        &self,
        role: &RoleRecord,
        found: &FoundSecretId,
        now: SystemTime,
    ) -> Result<(), BackendError> {
        let Some(left) = found.record.uses_left else {
            return Ok(());
        };
        let batch = match NonZeroU64::new(left.get() - 1) {
            Some(left) => {
                let key = store::secret_id(&role.key, &found.hash);
                Batch::new()
                    .expect(key.clone(), Some(found.revision))
                    .put_json(key, &found.record.used(left, now))?
            }
            None => store::remove(Batch::new(), &role.key, found),
        };
        Ok(self.host.store.apply(batch).await?)
    }

    pub(super) async fn ask_again(
        &self,
        renewal: &Handle,
    ) -> Result<TokenParameters, BackendError> {
        let Renewal { role, key } = renewal.decode()?;
        let found = self.role_named(&role).await?;
        let record = found.map(|found| found.record);
        let record = record
            .filter(|record| record.key == key)
            .ok_or(BackendError::LoginFailed(
                "the role of this token does not exist any more",
            ))?;
        Ok(record.token)
    }

    fn turn(&self, hash: &str) -> &tokio::sync::Mutex<()> {
        let at = hash.bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31) ^ usize::from(byte)
        });
        let [first, ..] = &self.turns;
        self.turns.get(at % self.turns.len()).unwrap_or(first)
    }
}
