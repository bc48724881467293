//! What a role is, how a request changes it and what is shown of it.

use std::collections::BTreeSet;
use std::time::Duration;

use daypass_contract::{BackendError, Body, TokenParameters, WithToken, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bound::Bound;
use crate::{earlier, name};

/// Earlier names of fields.
pub(super) const EARLIER: &earlier::Names = &[
    ("bound_cidr_list", "secret_id_bound_cidrs"),
    ("period", "token_period"),
    ("policies", "token_policies"),
];

/// A role as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RoleRecord {
    pub(super) name: String,
    /// Under which its secret ids are kept; random, so no role ever has another's.
    pub(super) key: String,
    pub(super) role_id: String,
    pub(super) settings: Settings,
    pub(super) token: TokenParameters,
    /// The earlier names by which fields were last set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    earlier: BTreeSet<String>,
}

/// What a role says about its secret ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Settings {
    /// Whether a login takes a secret id.
    pub(super) bind_secret_id: bool,
    /// Shown as it was given: there is no replication that would make a difference.
    pub(super) local_secret_ids: bool,
    /// Networks that a login must come from.
    #[serde(default, with = "null_for_none")]
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) secret_id_bound_cidrs: Vec<Bound>,
    /// Logins that a secret id is good for; 0 for any number.
    pub(super) secret_id_num_uses: u64,
    /// How long a secret id lasts; 0 for ever.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub(super) secret_id_ttl: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind_secret_id: true,
            local_secret_ids: false,
            secret_id_bound_cidrs: Vec::new(),
            secret_id_num_uses: 0,
            secret_id_ttl: Duration::ZERO,
        }
    }
}

/// What a write of a role may say of the role itself.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RoleFields {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    pub(super) role_name: String,
    /// The role id; random where a new role is given none.
    #[serde(default)]
    pub(super) role_id: Option<String>,
    /// Whether a login takes a secret id; it does unless said otherwise.
    #[serde(default)]
    bind_secret_id: Option<bool>,
    /// Kept and shown; cannot be changed later.
    #[serde(default)]
    local_secret_ids: Option<bool>,
    /// Networks that a login must come from.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    secret_id_bound_cidrs: Option<Vec<Bound>>,
    /// Logins that a secret id is good for; 0 for any number.
    #[serde(default)]
    secret_id_num_uses: Option<u64>,
    /// How long a secret id lasts; 0 for ever.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    secret_id_ttl: Option<Duration>,
    /// Earlier name of `secret_id_bound_cidrs`.
    #[serde(default, rename = "bound_cidr_list")]
    #[schemars(with = "Option<Vec<String>>")]
    _bound_cidr_list: Option<Vec<Bound>>,
    /// Earlier name of `token_period`.
    #[serde(default, rename = "period", with = "duration::option")]
    #[schemars(with = "Option<String>")]
    _period: Option<Duration>,
    /// Earlier name of `token_policies`.
    #[serde(default, rename = "policies")]
    _policies: Option<Vec<String>>,
}

/// A write of a role.
pub(super) type RoleRequest = WithToken<RoleFields>;

/// What is shown of a role.
#[derive(Serialize, JsonSchema)]
pub(super) struct RoleView {
    #[serde(flatten)]
    settings: Settings,
    #[serde(flatten)]
    token: TokenParameters,
    #[serde(flatten)]
    #[schemars(skip)]
    earlier: Map<String, Value>,
}

impl RoleRecord {
    pub(super) fn new(name: String, key: String, role_id: String) -> Self {
        Self {
            name,
            key,
            role_id,
            settings: Settings::default(),
            token: TokenParameters::default(),
            earlier: BTreeSet::new(),
        }
    }

    /// Takes over what `body` says, under whichever names, except for the role id.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`] where a field is wrong or they do not fit together.
    pub(super) fn update(&mut self, body: &Body, is_new: bool) -> Result<(), BackendError> {
        let request: RoleRequest = earlier::translate(EARLIER, body).decode()?;
        let RoleFields {
            role_name: _,
            role_id: _,
            bind_secret_id,
            local_secret_ids,
            secret_id_bound_cidrs,
            secret_id_num_uses,
            secret_id_ttl,
            _bound_cidr_list: _,
            _period: _,
            _policies: _,
        } = request.role;
        let settings = &mut self.settings;
        if let Some(local) = local_secret_ids {
            if !is_new && local != settings.local_secret_ids {
                return Err(BackendError::field(
                    "local_secret_ids",
                    "can only be set when the role is created",
                ));
            }
            settings.local_secret_ids = local;
        }
        set(&mut settings.bind_secret_id, bind_secret_id);
        set(&mut settings.secret_id_bound_cidrs, secret_id_bound_cidrs);
        set(&mut settings.secret_id_num_uses, secret_id_num_uses);
        set(&mut settings.secret_id_ttl, secret_id_ttl);
        self.token
            .update(request.token)
            .map_err(BackendError::InvalidRequest)?;
        earlier::remember(EARLIER, body, &mut self.earlier);
        let open = !self.settings.bind_secret_id
            && self.settings.secret_id_bound_cidrs.is_empty()
            && self.token.token_bound_cidrs.is_empty();
        if open {
            return Err(BackendError::field(
                "bind_secret_id",
                "at least one constraint should be enabled on the role: without secret ids, it needs \
                 secret_id_bound_cidrs or token_bound_cidrs",
            ));
        }
        Ok(())
    }

    /// What is shown of it.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where it has no JSON form.
    pub(super) fn view(&self) -> Result<RoleView, BackendError> {
        let mut view = RoleView {
            settings: self.settings.clone(),
            token: self.token.clone(),
            earlier: Map::new(),
        };
        if !self.earlier.is_empty() {
            view.earlier = earlier::shown(EARLIER, &self.earlier, &view.fields()?);
        }
        Ok(view)
    }
}

impl RoleView {
    /// By name.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where it has no JSON form.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, BackendError> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => Ok(fields),
            _ => Err(BackendError::Internal("role has no JSON form".into())),
        }
    }
}

fn set<T>(target: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *target = given;
    }
}

/// As the Vault API shows bounds that there are none of.
mod null_for_none {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Bound;

    pub(super) fn serialize<S: Serializer>(
        bounds: &[Bound],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if bounds.is_empty() {
            serializer.serialize_none()
        } else {
            serializer.collect_seq(bounds)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Bound>, D::Error> {
        Option::<Vec<Bound>>::deserialize(deserializer).map(Option::unwrap_or_default)
    }
}
