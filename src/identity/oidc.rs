//! Identity tokens: signed statements about an entity, which others verify with published keys, so that a
//! cloud trusts Daypass instead of keeping a secret of it. OpenID Connect Core and Discovery.
//!
//! # Invariants
//!
//! * The key that will sign next is published one rotation before it does, and one that signed stays
//!   published for as long as what it signed may be verified.
//! * A role's tokens never outlive the publication of the key that signed them.

mod signing;
mod template;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{Batch, Clock, Entropy, Revision, duration, millis};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::signing::Algorithm;
use self::signing::{Pair, Parsed, Public, Signer};
use self::template::{Template, text_of};
use super::store::{IdentityError, RACES, raced};
use super::{Identity, Standing};
use crate::storage::{Barrier, StorageError};

const CONFIG: &str = "identity/oidc/config";
const KEYS: &str = "identity/oidc/key/";
const ROLES: &str = "identity/oidc/role/";
/// Keys and roles there may be, each.
const MOST: usize = 1000;
/// Signing keys kept ready.
const READY: usize = 256;
const DAY: Duration = Duration::from_hours(24);
/// The key that roles may name before anyone made it.
const DEFAULT_KEY: &str = "default";

/// The issuer of identity tokens of one server.
pub struct Oidc {
    barrier: Arc<Barrier>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// By key id: what a key id stands for never changes.
    signers: Cache<String, Arc<Signer>>,
}

#[derive(Default, Serialize, Deserialize)]
struct Config {
    issuer: String,
}

#[derive(Serialize, Deserialize)]
struct Key {
    name: String,
    algorithm: Algorithm,
    #[serde(with = "duration")]
    rotation_period: Duration,
    #[serde(with = "duration")]
    verification_ttl: Duration,
    allowed_client_ids: Vec<String>,
    #[serde(with = "millis")]
    next_rotation_at: SystemTime,
    current: Pair,
    next: Pair,
    previous: Vec<Retired>,
}

/// A key that signs no more.
#[derive(Serialize, Deserialize)]
struct Retired {
    public: Public,
    #[serde(with = "millis")]
    expires_at: SystemTime,
}

/// What is told of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySettings {
    /// How it signs.
    pub algorithm: Algorithm,
    /// How long one key pair signs.
    pub rotation_period: Duration,
    /// For how long a key pair is published after it signed last.
    pub verification_ttl: Duration,
    /// Client ids of roles that may use it; `*` for all.
    pub allowed_client_ids: Vec<String>,
}

/// What a write changes about a key; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyPatch {
    /// See [`KeySettings::algorithm`]; another one makes new key pairs.
    pub algorithm: Option<String>,
    /// See [`KeySettings::rotation_period`].
    pub rotation_period: Option<Duration>,
    /// See [`KeySettings::verification_ttl`].
    pub verification_ttl: Option<Duration>,
    /// See [`KeySettings::allowed_client_ids`].
    pub allowed_client_ids: Option<Vec<String>>,
}

/// What tokens of a role are like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OidcRole {
    /// The role's name.
    #[serde(default)]
    name: String,
    /// The key that signs them.
    pub key: String,
    /// How long they last.
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// The claims besides those that every token has.
    pub template: String,
    /// Whom they are for.
    pub client_id: String,
}

/// What a write changes about a role; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct RolePatch {
    /// See [`OidcRole::key`].
    pub key: Option<String>,
    /// See [`OidcRole::ttl`].
    pub ttl: Option<Duration>,
    /// See [`OidcRole::template`]; as it is or in base64.
    pub template: Option<String>,
    /// See [`OidcRole::client_id`].
    pub client_id: Option<String>,
}

/// A signed token.
pub struct IdToken {
    /// The compact JWS.
    pub token: String,
    /// Whom it is for.
    pub client_id: String,
    /// How long it lasts.
    pub ttl: Duration,
}

fn stored_name(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

fn invalid<T>(text: impl Into<String>) -> Result<T, IdentityError> {
    Err(IdentityError::invalid(text))
}

impl Oidc {
    /// Opens the store.
    pub fn open(barrier: Arc<Barrier>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            barrier,
            clock,
            entropy,
            signers: Cache::new(READY),
        }
    }

    /// The address that the issuer's begins with; empty where none is set.
    pub async fn base(&self) -> Result<String, IdentityError> {
        let config = self.read::<Config>(CONFIG).await?;
        Ok(config.map(|(config, _)| config.issuer).unwrap_or_default())
    }

    /// Sets the address: scheme, host and port of this server as those who verify tokens reach it.
    pub async fn set_base(&self, issuer: &str) -> Result<(), IdentityError> {
        let fits = |uri: &http::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri
                    .authority()
                    .is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
        };
        let uri: Option<http::Uri> = issuer.parse().ok();
        if !issuer.is_empty() && (issuer.ends_with('/') || !uri.as_ref().is_some_and(fits)) {
            return invalid(
                "invalid issuer, which must include only a scheme, host, and optional port \
                 (e.g. https://example.com:8200)",
            );
        }
        let config = Config {
            issuer: issuer.to_owned(),
        };
        let found = self.read::<Config>(CONFIG).await?;
        let revision = found.map(|(_, revision)| revision);
        if self.put(CONFIG.to_owned(), &config, revision).await? {
            return Ok(());
        }
        Err(raced())
    }

    /// The `iss` of every token.
    pub async fn issuer(&self) -> Result<String, IdentityError> {
        match self.base().await? {
            base if base.is_empty() => invalid(
                "no issuer is set: write the address of this server to identity/oidc/config as \"issuer\"",
            ),
            base => Ok(format!("{base}/v1/identity/oidc")),
        }
    }

    /// Makes or changes a key.
    pub async fn put_key(&self, name: &str, patch: KeyPatch) -> Result<(), IdentityError> {
        check_name(name)?;
        let algorithm = match patch.algorithm.as_deref().filter(|given| !given.is_empty()) {
            None => None,
            Some(given) => match given.parse::<Algorithm>() {
                Ok(algorithm) => Some(algorithm),
                Err(()) => {
                    return invalid(
                        "field \"algorithm\": must be ES256, ES384, ES512, RS256, RS384, RS512 or EdDSA",
                    );
                }
            },
        };
        for _ in 0..RACES {
            let found = self.load_key(name).await?;
            let now = self.clock.now();
            let known = found.as_ref().map(|(key, _)| key.settings());
            let settings = KeySettings {
                algorithm: algorithm
                    .or(known.as_ref().map(|known| known.algorithm))
                    .unwrap_or(Algorithm::Rs256),
                rotation_period: patch
                    .rotation_period
                    .or(known.as_ref().map(|known| known.rotation_period))
                    .unwrap_or(DAY),
                verification_ttl: patch
                    .verification_ttl
                    .or(known.as_ref().map(|known| known.verification_ttl))
                    .unwrap_or(DAY),
                allowed_client_ids: patch
                    .allowed_client_ids
                    .clone()
                    .or(known.as_ref().map(|known| known.allowed_client_ids.clone()))
                    .unwrap_or_default(),
            };
            self.check_settings(name, &settings).await?;
            let renewed = known
                .as_ref()
                .is_none_or(|known| known.algorithm != settings.algorithm);
            let (mut key, revision) = if let Some((mut key, revision)) = found {
                if renewed {
                    let expires_at = now + key.verification_ttl.max(settings.verification_ttl);
                    let public = key.current.public.clone();
                    key.previous.push(Retired { public, expires_at });
                    key.current = self.generate(settings.algorithm).await?;
                    key.next = self.generate(settings.algorithm).await?;
                }
                (key, Some(revision))
            } else {
                let key = Key {
                    name: name.to_owned(),
                    algorithm: settings.algorithm,
                    rotation_period: settings.rotation_period,
                    verification_ttl: settings.verification_ttl,
                    allowed_client_ids: Vec::new(),
                    next_rotation_at: now,
                    current: self.generate(settings.algorithm).await?,
                    next: self.generate(settings.algorithm).await?,
                    previous: Vec::new(),
                };
                (key, None)
            };
            if revision.is_none() || renewed || key.rotation_period != settings.rotation_period {
                key.next_rotation_at = now + settings.rotation_period;
            }
            key.algorithm = settings.algorithm;
            key.rotation_period = settings.rotation_period;
            key.verification_ttl = settings.verification_ttl;
            key.allowed_client_ids = settings.allowed_client_ids;
            if self.put(stored_name(KEYS, name), &key, revision).await? {
                return Ok(());
            }
        }
        Err(raced())
    }

    async fn check_settings(
        &self,
        name: &str,
        settings: &KeySettings,
    ) -> Result<(), IdentityError> {
        let KeySettings {
            rotation_period,
            verification_ttl,
            ..
        } = settings;
        if *rotation_period < Duration::from_mins(1) {
            return invalid("rotation_period must be at least one minute");
        }
        if *verification_ttl > rotation_period.saturating_mul(10) {
            return invalid("verification_ttl cannot be longer than 10x rotation_period");
        }
        let roles = self.all::<OidcRole>(ROLES).await?;
        if roles
            .iter()
            .any(|role| role.key == name && role.ttl > *verification_ttl)
        {
            return invalid(format!(
                "unable to update key {name:?} because it is currently referenced by one or more roles with a \
                 token ttl greater than {} seconds",
                verification_ttl.as_secs()
            ));
        }
        Ok(())
    }

    /// A key's settings.
    pub async fn key(&self, name: &str) -> Result<Option<KeySettings>, IdentityError> {
        let found = self.load_key(name).await?;
        Ok(found.map(|(key, _)| key.settings()))
    }

    /// Names of keys.
    pub async fn key_names(&self) -> Result<Vec<String>, IdentityError> {
        let keys = self.all::<Key>(KEYS).await?;
        Ok(keys.into_iter().map(|key| key.name).collect())
    }

    /// Deletes a key that no role uses; what it signed is not verifiable any more.
    pub async fn delete_key(&self, name: &str) -> Result<(), IdentityError> {
        let roles = self.all::<OidcRole>(ROLES).await?;
        let users: Vec<String> = roles
            .into_iter()
            .filter(|role| role.key == name)
            .map(|role| role.name)
            .collect();
        if !users.is_empty() {
            return invalid(format!(
                "unable to delete key {name:?} because it is currently referenced by these roles: {}",
                users.join(", ")
            ));
        }
        self.delete(stored_name(KEYS, name)).await
    }

    /// Signs with the next key pair from now on. The one before stays published for `verification_ttl`, or
    /// as long as its key says.
    pub async fn rotate(
        &self,
        name: &str,
        verification_ttl: Option<Duration>,
    ) -> Result<(), IdentityError> {
        for _ in 0..RACES {
            let Some((mut key, revision)) = self.load_key(name).await? else {
                return invalid(format!("no named key found at {name:?}"));
            };
            let fresh = self.generate(key.algorithm).await?;
            key.turn(fresh, self.clock.now(), verification_ttl);
            if self
                .put(stored_name(KEYS, name), &key, Some(revision))
                .await?
            {
                return Ok(());
            }
        }
        Err(raced())
    }

    /// Rotates the keys whose time has come and forgets those that need not be published any more. Gives
    /// when to be called again, where anything is left to do.
    pub async fn maintain(&self) -> Result<Option<SystemTime>, IdentityError> {
        let now = self.clock.now();
        let mut next: Option<SystemTime> = None;
        for mut key in self.all::<Key>(KEYS).await? {
            if key.next_rotation_at <= now {
                self.rotate(&key.name, None).await?;
            } else if key.previous.iter().any(|old| old.expires_at <= now)
                && let Some((mut stored, revision)) = self.load_key(&key.name).await?
            {
                stored.previous.retain(|old| old.expires_at > now);
                let at = stored_name(KEYS, &key.name);
                // Where it changed meanwhile, the next call sees to it.
                self.put(at, &stored, Some(revision)).await?;
            }
            key.previous.retain(|old| old.expires_at > now);
            let times = key.previous.iter().map(|old| old.expires_at);
            let rotation = key.next_rotation_at.max(now + Duration::from_secs(1));
            next = times.chain([rotation]).chain(next).min();
        }
        Ok(next)
    }

    /// Makes or changes a role.
    pub async fn put_role(&self, name: &str, patch: RolePatch) -> Result<(), IdentityError> {
        check_name(name)?;
        for _ in 0..RACES {
            let found = self.read::<OidcRole>(&stored_name(ROLES, name)).await?;
            let revision = found.as_ref().map(|(_, revision)| *revision);
            let mut role = found.map_or_else(
                || OidcRole {
                    name: name.to_owned(),
                    key: String::new(),
                    ttl: DAY,
                    template: String::new(),
                    client_id: self.new_client_id(),
                },
                |(role, _)| role,
            );
            if let Some(key) = &patch.key {
                role.key.clone_from(key);
            }
            if let Some(ttl) = patch.ttl {
                role.ttl = ttl;
            }
            if let Some(template) = &patch.template {
                role.template = text_of(template);
                Template::parse(&role.template)?;
            }
            if let Some(client_id) = patch.client_id.as_ref().filter(|id| !id.is_empty()) {
                role.client_id.clone_from(client_id);
            }
            if role.key.is_empty() {
                return invalid("the key parameter is required");
            }
            if role.ttl.is_zero() {
                return invalid("field \"ttl\": must be at least one second");
            }
            let Some(key) = self.key(&role.key).await? else {
                if role.key == DEFAULT_KEY {
                    let everyone = KeyPatch {
                        allowed_client_ids: Some(vec!["*".into()]),
                        ..KeyPatch::default()
                    };
                    self.put_key(DEFAULT_KEY, everyone).await?;
                    continue;
                }
                return invalid("field \"key\": cannot find a key of that name");
            };
            if role.ttl > key.verification_ttl {
                return invalid(
                    "a role's token ttl cannot be longer than the verification_ttl of the key it references",
                );
            }
            if self.put(stored_name(ROLES, name), &role, revision).await? {
                return Ok(());
            }
        }
        Err(raced())
    }

    /// A role.
    pub async fn role(&self, name: &str) -> Result<Option<OidcRole>, IdentityError> {
        let found = self.read::<OidcRole>(&stored_name(ROLES, name)).await?;
        Ok(found.map(|(role, _)| role))
    }

    /// Names of roles.
    pub async fn role_names(&self) -> Result<Vec<String>, IdentityError> {
        let roles = self.all::<OidcRole>(ROLES).await?;
        Ok(roles.into_iter().map(|role| role.name).collect())
    }

    /// Deletes a role; tokens of it last as long as they do.
    pub async fn delete_role(&self, name: &str) -> Result<(), IdentityError> {
        self.delete(stored_name(ROLES, name)).await
    }

    /// Signs a token of a role about an entity.
    pub async fn token(
        &self,
        role_name: &str,
        standing: &Standing,
    ) -> Result<IdToken, IdentityError> {
        let Some(role) = self.role(role_name).await? else {
            return invalid(format!("role {role_name:?} not found"));
        };
        let Some((key, _)) = self.load_key(&role.key).await? else {
            return invalid(format!("key {:?} not found", role.key));
        };
        let allows = |id: &String| id == "*" || *id == role.client_id;
        if !key.allowed_client_ids.iter().any(allows) {
            return invalid(format!(
                "the key {:?} does not list the client ID of the role {role_name:?} as an allowed client ID",
                role.key
            ));
        }
        let now = self.clock.now();
        let issued_at = millis::of(now) / 1000;
        let mut claims = Template::parse(&role.template)?.fill(standing, now);
        let own = [
            ("iss", self.issuer().await?.into()),
            ("sub", standing.id.clone().into()),
            ("aud", role.client_id.clone().into()),
            ("iat", issued_at.into()),
            ("exp", (issued_at + role.ttl.as_secs()).into()),
            ("namespace", Value::from("root")),
        ];
        // After the template, so that it cannot say otherwise.
        claims.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let kid = &key.current.public.kid;
        let signer = if let Some(signer) = self.signers.get(kid) {
            signer
        } else {
            let signer = Arc::new(key.current.signer()?);
            self.signers.insert(kid.clone(), Arc::clone(&signer));
            signer
        };
        Ok(IdToken {
            token: signer.sign(kid, &Value::Object(claims))?,
            client_id: role.client_id,
            ttl: role.ttl,
        })
    }

    /// The key set that verifies tokens, as JSON (RFC 7517).
    pub async fn key_set(&self) -> Result<Value, IdentityError> {
        let keys: Vec<Value> = self.publics().await?.map(|public| public.jwk).collect();
        Ok(json!({ "keys": keys }))
    }

    /// Whether a token is valid and its entity may act; `Err` within says why not.
    pub async fn introspect(
        &self,
        token: &str,
        client_id: Option<&str>,
        identity: &Identity,
    ) -> Result<Result<(), &'static str>, IdentityError> {
        let Some(parsed) = Parsed::parse(token) else {
            return Ok(Err(
                "error parsing token: it is no signed JWT with a key id",
            ));
        };
        let known = self
            .publics()
            .await?
            .find(|public| public.kid == parsed.kid);
        if !known.is_some_and(|public| parsed.is_signed_by(&public)) {
            return Ok(Err("unable to validate the token signature"));
        }
        let text = |name: &str| parsed.claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(self.issuer().await?.as_str()) {
            return Ok(Err(
                "error validating claims: validation failed, invalid issuer claim (iss)",
            ));
        }
        if client_id.is_some_and(|client_id| text("aud") != Some(client_id)) {
            return Ok(Err(
                "error validating claims: validation failed, invalid audience claim (aud)",
            ));
        }
        let expires = parsed.claims.get("exp").and_then(Value::as_u64);
        if expires.is_none_or(|at| at <= millis::of(self.clock.now()) / 1000) {
            return Ok(Err(
                "error validating claims: validation failed, token is expired (exp)",
            ));
        }
        Ok(
            match identity.standing(text("sub").unwrap_or_default()).await? {
                None => Err("entity was not found"),
                Some(standing) if standing.disabled => Err("entity is disabled"),
                Some(_) => Ok(()),
            },
        )
    }

    /// Every public key that verifies something, or will.
    async fn publics(&self) -> Result<impl Iterator<Item = Public>, IdentityError> {
        let now = self.clock.now();
        let keys = self.all::<Key>(KEYS).await?;
        Ok(keys.into_iter().flat_map(move |key| {
            let old = key
                .previous
                .into_iter()
                .filter(move |old| old.expires_at > now);
            [key.current.public, key.next.public]
                .into_iter()
                .chain(old.map(|old| old.public))
        }))
    }

    async fn generate(&self, algorithm: Algorithm) -> Result<Pair, IdentityError> {
        let bytes = (*self.entropy).bytes::<16>();
        let kid = uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string();
        tokio::task::spawn_blocking(move || Pair::generate(algorithm, kid))
            .await
            .map_err(|_| IdentityError::Broken("making a signing key"))?
    }

    fn new_client_id(&self) -> String {
        const LETTERS: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        (0..26)
            .filter_map(|_| LETTERS.get((*self.entropy).below(LETTERS.len())))
            .map(|letter| char::from(*letter))
            .collect()
    }

    async fn load_key(&self, name: &str) -> Result<Option<(Key, Revision)>, IdentityError> {
        self.read(&stored_name(KEYS, name)).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(T, Revision)>, IdentityError> {
        let Some(entry) = self.barrier.get(key).await? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(entry.value.expose())
            .map_err(|_| IdentityError::Broken("identity token record"))?;
        Ok(Some((value, entry.revision)))
    }

    async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, IdentityError> {
        let entries = self.barrier.entries(prefix, None, MOST).await?;
        let read = |(_, entry): (String, daypass_contract::Entry)| {
            serde_json::from_slice(entry.value.expose())
                .map_err(|_| IdentityError::Broken("identity token record"))
        };
        entries.into_iter().map(read).collect()
    }

    /// Writes if `expected` is still the revision, `None` for a key that is absent. `false`: it is not.
    async fn put<T: Serialize>(
        &self,
        key: String,
        value: &T,
        expected: Option<Revision>,
    ) -> Result<bool, IdentityError> {
        let batch = Batch::new()
            .expect(key.clone(), expected)
            .put_json(key, value)
            .map_err(|_| IdentityError::Broken("identity token record"))?;
        match self.barrier.apply(batch).await {
            Ok(_) => Ok(true),
            Err(StorageError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, key: String) -> Result<(), IdentityError> {
        self.barrier.apply(Batch::new().delete(key)).await?;
        Ok(())
    }
}

impl Key {
    fn settings(&self) -> KeySettings {
        KeySettings {
            algorithm: self.algorithm,
            rotation_period: self.rotation_period,
            verification_ttl: self.verification_ttl,
            allowed_client_ids: self.allowed_client_ids.clone(),
        }
    }

    fn turn(&mut self, fresh: Pair, now: SystemTime, verification_ttl: Option<Duration>) {
        let next = std::mem::replace(&mut self.next, fresh);
        let old = std::mem::replace(&mut self.current, next);
        self.previous.retain(|old| old.expires_at > now);
        self.previous.push(Retired {
            public: old.public,
            expires_at: now + verification_ttl.unwrap_or(self.verification_ttl),
        });
        self.next_rotation_at = now + self.rotation_period;
    }
}

fn check_name(name: &str) -> Result<(), IdentityError> {
    let fits = (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        return Ok(());
    }
    invalid("field \"name\": must be at most 128 letters, digits, \"-\", \"_\" and \".\"")
}
