//! The auth method `userpass`: a user name and a password, for people who approve and administer.
//!
//! # Invariants
//!
//! * **Nobody learns who has an account.** An unknown name and a wrong password take the same time and get
//!   the same answer.
//! * **A password is not readable.** It is kept as an Argon2id hash with a salt of its own; no answer shows
//!   either.
//!
//! Passwords are guessable, so a login claims its user name: the engine locks it out for a while after too
//! many failures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::{
    Alias, Backend, BackendError, BackendRoutes, Batch, Body, Call, Cidr, Entry, Handle, Host,
    Keys, ListRequest, Login, Operation, Presence, Reply, Revocability, Revocation, Secret,
    StoreError, TokenParameters, WithToken, async_trait, duration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::again::until_settled;
use crate::strict::refuse_unknown;
use crate::{earlier, name};

mod password;
#[cfg(test)]
mod tests;

use password::PasswordHash;

/// Where users are kept.
const USERS: &str = "user/";

/// Earlier names of fields.
const EARLIER: &earlier::Names = &[
    ("bound_cidrs", "token_bound_cidrs"),
    ("max_ttl", "token_max_ttl"),
    ("policies", "token_policies"),
    ("ttl", "token_ttl"),
];

/// Opens a mount.
///
/// # Errors
/// None today.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(UserPass { host }))
}

struct UserPass {
    host: Host,
}

/// A user as it is stored.
#[derive(Serialize, Deserialize)]
struct UserRecord {
    /// Random, so that no later user of the same name is taken for this one.
    id: String,
    password: PasswordHash,
    token: TokenParameters,
    /// The earlier names by which fields were last set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    earlier: BTreeSet<String>,
}

#[derive(Deserialize, JsonSchema)]
struct UserName {
    /// The user.
    #[serde(deserialize_with = "name::lower")]
    username: String,
}

/// What a write of a user may say of the user itself.
#[derive(Deserialize, JsonSchema)]
struct UserFields {
    /// The user.
    #[serde(deserialize_with = "name::lower")]
    username: String,
    /// The password; a new user needs one.
    #[serde(default)]
    password: Option<Secret>,
    /// Not taken: see the answer.
    #[serde(default)]
    password_hash: Option<Secret>,
    /// Earlier name of `token_bound_cidrs`.
    #[serde(default, rename = "bound_cidrs")]
    _bound_cidrs: Option<Vec<Cidr>>,
    /// Earlier name of `token_max_ttl`.
    #[serde(default, rename = "max_ttl", with = "duration::option")]
    #[schemars(with = "Option<String>")]
    _max_ttl: Option<Duration>,
    /// Earlier name of `token_policies`.
    #[serde(default, rename = "policies")]
    _policies: Option<Vec<String>>,
    /// Earlier name of `token_ttl`.
    #[serde(default, rename = "ttl", with = "duration::option")]
    #[schemars(with = "Option<String>")]
    _ttl: Option<Duration>,
}

#[derive(Deserialize, JsonSchema)]
struct PasswordRequest {
    /// The user.
    #[serde(deserialize_with = "name::lower")]
    username: String,
    /// The new password.
    #[serde(default)]
    password: Option<Secret>,
    /// Not taken: see the answer.
    #[serde(default)]
    password_hash: Option<Secret>,
}

#[derive(Deserialize, JsonSchema)]
struct PoliciesRequest {
    /// The user.
    #[serde(deserialize_with = "name::lower")]
    username: String,
    /// Policies of tokens.
    #[serde(default)]
    token_policies: Option<Vec<String>>,
    /// Earlier name of `token_policies`.
    #[serde(default)]
    policies: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
struct LoginRequest {
    /// The user.
    #[serde(deserialize_with = "name::lower")]
    username: String,
    /// The password.
    password: Secret,
}

/// What is shown of a user.
#[derive(Serialize, JsonSchema)]
struct UserView {
    #[serde(flatten)]
    token: TokenParameters,
    #[serde(flatten)]
    #[schemars(skip)]
    earlier: Map<String, Value>,
}

/// What a renewal asks about.
#[derive(Serialize, Deserialize)]
struct Renewal {
    user: String,
    id: String,
}

impl UserRecord {
    /// Takes over what `body` says about tokens, under whichever names.
    fn update(&mut self, body: &Body) -> Result<(), BackendError> {
        let request: WithToken<UserName> = earlier::translate(EARLIER, body).decode()?;
        self.token
            .update(request.token)
            .map_err(BackendError::InvalidRequest)?;
        earlier::remember(EARLIER, body, &mut self.earlier);
        Ok(())
    }

    fn view(&self) -> Result<UserView, BackendError> {
        let Ok(Value::Object(fields)) = serde_json::to_value(&self.token) else {
            return Err(BackendError::Internal("user has no JSON form".into()));
        };
        Ok(UserView {
            token: self.token.clone(),
            earlier: earlier::shown(EARLIER, &self.earlier, &fields),
        })
    }
}

impl UserPass {
    async fn list(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Keys>, BackendError> {
        let after = request.after.as_deref();
        Reply::keys(crate::names(&self.host, USERS, after, request.limit).await?)
    }

    async fn read(
        self: Arc<Self>,
        _: Call,
        request: UserName,
    ) -> Result<Reply<UserView>, BackendError> {
        let (user, _) = self.need_user(&request.username).await?;
        Reply::data(&user.view()?)
    }

    async fn write(
        self: Arc<Self>,
        call: Call,
        request: WithToken<UserFields>,
    ) -> Result<Reply<()>, BackendError> {
        refuse_unknown::<WithToken<UserFields>>(&call.body, &[])?;
        let username = &request.role.username;
        name::check("username", username)?;
        let (given, refused) = (&request.role.password, &request.role.password_hash);
        let password = match given.as_ref().filter(|password| !password.is_empty()) {
            Some(password) => Some(self.hash(password, refused.as_ref()).await?),
            None => no_hash(refused.as_ref()).map(|()| None)?,
        };
        until_settled(|| async {
            let (mut user, entry) = match (self.user(username).await?, password.clone()) {
                (Some((user, entry)), None) => (user, Some(entry)),
                (Some((user, entry)), Some(password)) => {
                    (UserRecord { password, ..user }, Some(entry))
                }
                (None, Some(password)) => {
                    let user = UserRecord {
                        id: hex::encode(self.host.entropy.bytes::<16>()),
                        password,
                        token: TokenParameters::default(),
                        earlier: BTreeSet::new(),
                    };
                    (user, None)
                }
                (None, None) => {
                    return Err(BackendError::field(
                        "password",
                        "is required for a new user",
                    ));
                }
            };
            user.update(&call.body)?;
            self.save(username, &user, entry.as_ref()).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    async fn delete(
        self: Arc<Self>,
        _: Call,
        request: UserName,
    ) -> Result<Reply<()>, BackendError> {
        let batch = Batch::new().delete(key(&request.username));
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn write_password(
        self: Arc<Self>,
        _: Call,
        request: PasswordRequest,
    ) -> Result<Reply<()>, BackendError> {
        let username = &request.username;
        // Before the work of hashing.
        self.need_user(username).await?;
        let password = request.password.filter(|password| !password.is_empty());
        let refused = request.password_hash.as_ref();
        let Some(password) = password else {
            no_hash(refused)?;
            return Err(BackendError::field("password", "is required"));
        };
        let hash = self.hash(&password, refused).await?;
        until_settled(|| async {
            let (user, entry) = self.need_user(username).await?;
            let password = hash.clone();
            let user = UserRecord { password, ..user };
            self.save(username, &user, Some(&entry)).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    async fn write_policies(
        self: Arc<Self>,
        call: Call,
        request: PoliciesRequest,
    ) -> Result<Reply<()>, BackendError> {
        if request.token_policies.is_none() && request.policies.is_none() {
            return Err(BackendError::field("token_policies", "is required"));
        }
        let mut only = call.body.fields().clone();
        only.retain(|name, _| ["username", "token_policies", "policies"].contains(&name.as_str()));
        let only = Body::new(only);
        until_settled(|| async {
            let (mut user, entry) = self.need_user(&request.username).await?;
            user.update(&only)?;
            self.save(&request.username, &user, Some(&entry)).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    async fn login(self: Arc<Self>, _: Call, request: LoginRequest) -> Result<Login, BackendError> {
        let LoginRequest { username, password } = request;
        let found = self.user(&username).await?;
        let hash = found.as_ref().map(|(user, _)| &user.password);
        let admitted = PasswordHash::admits(hash, &password).await?;
        let Some((mut user, entry)) = found.filter(|_| admitted) else {
            return Err(BackendError::LoginFailed("invalid username or password"));
        };
        if user.password.is_outgrown() {
            user.password = PasswordHash::of(&password, &*self.host.entropy).await?;
            match self.save(&username, &user, Some(&entry)).await {
                // Changed meanwhile: the next login tries again.
                Ok(()) | Err(BackendError::Store(StoreError::Conflict)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Login {
            alias: Alias {
                name: username.clone(),
                metadata: BTreeMap::new(),
            },
            display_name: username.clone(),
            metadata: BTreeMap::from([("username".to_owned(), username.clone())]),
            groups: Vec::new(),
            token: user.token,
            renewal: Handle::encode(&Renewal {
                user: username,
                id: user.id,
            })?,
            warnings: Vec::new(),
        })
    }

    async fn hash(
        &self,
        password: &Secret,
        refused: Option<&Secret>,
    ) -> Result<PasswordHash, BackendError> {
        no_hash(refused)?;
        PasswordHash::of(password, &*self.host.entropy).await
    }

    async fn user(&self, name: &str) -> Result<Option<(UserRecord, Entry)>, BackendError> {
        match self.host.store.get(&key(name)).await? {
            Some(entry) => Ok(Some((entry.decode()?, entry))),
            None => Ok(None),
        }
    }

    async fn need_user(&self, name: &str) -> Result<(UserRecord, Entry), BackendError> {
        self.user(name).await?.ok_or(BackendError::NotFound)
    }

    /// Writes a user where it is still what `old` says.
    async fn save(
        &self,
        name: &str,
        user: &UserRecord,
        old: Option<&Entry>,
    ) -> Result<(), BackendError> {
        let batch = Batch::new().expect(key(name), old.map(|entry| entry.revision));
        Ok(self
            .host
            .store
            .apply(batch.put_json(key(name), user)?)
            .await?)
    }
}

fn key(name: &str) -> String {
    format!("{USERS}{name}")
}

/// Refuses a hash that was made elsewhere.
fn no_hash(given: Option<&Secret>) -> Result<(), BackendError> {
    match given {
        Some(hash) if !hash.is_empty() => Err(BackendError::field(
            "password_hash",
            "bcrypt hashes are not taken, because passwords are kept by Argon2id: send password instead",
        )),
        _ => Ok(()),
    }
}

#[async_trait]
impl Backend for UserPass {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        routes.login(
            &self,
            "login/{username}",
            "Logs in with a password.",
            |request: &LoginRequest| Some(&request.username),
            Self::login,
        );
        let user = "users/{username}";
        routes.answer(&self, List, "users", "Lists users.", Self::list);
        routes.answer(&self, Read, user, "Reads a user.", Self::read);
        routes.answer(
            &self,
            Write,
            user,
            "Creates or changes a user.",
            Self::write,
        );
        routes.answer(&self, Delete, user, "Deletes a user.", Self::delete);
        routes.answer(
            &self,
            Write,
            "users/{username}/password",
            "Sets a user's password.",
            Self::write_password,
        );
        routes.answer(
            &self,
            Write,
            "users/{username}/policies",
            "Sets a user's policies.",
            Self::write_policies,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.trim_end_matches('/').strip_prefix("users/") {
            Some(name) if !name.contains('/') => {
                Ok(self.user(&name.to_ascii_lowercase()).await?.is_some())
            }
            _ => Ok(true),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }

    async fn renew_login(&self, renewal: &Handle) -> Result<TokenParameters, BackendError> {
        let Renewal { user, id } = renewal.decode()?;
        match self.user(&user).await? {
            Some((user, _)) if user.id == id => Ok(user.token),
            _ => Err(BackendError::LoginFailed(
                "the user of this token does not exist any more",
            )),
        }
    }
}
