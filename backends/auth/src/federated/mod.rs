//! What the methods share that trust a token of someone else: asking an upstream over HTTPS, patterns
//! that leave everything open, and requests about roles.

use daypass_contract::body::SAFE;
use daypass_contract::{Body, Secret, TokenFields, WithToken};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};

use crate::earlier;

mod upstream;

pub(crate) use upstream::{Failed, Upstream, check_base, check_url};

/// Whether a pattern describes every text.
pub(crate) fn is_open(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*')
}

/// The longest token that is read, in bytes. Those of CI systems and clusters have one to four thousand.
const LONGEST_TOKEN: usize = 65_536;

/// Names that fields about tokens had before they began with `token_`. Documents and clients (hvac for
/// kubernetes) still use them.
const EARLIER: &earlier::Names = &[
    ("bound_cidrs", "token_bound_cidrs"),
    ("max_ttl", "token_max_ttl"),
    ("num_uses", "token_num_uses"),
    ("period", "token_period"),
    ("policies", "token_policies"),
    ("ttl", "token_ttl"),
];

/// A role's own fields together with those about its tokens, which may bear their earlier names.
pub(crate) struct RoleRequest<T> {
    /// The role's own.
    pub(crate) role: T,
    /// Those about tokens.
    pub(crate) token: TokenFields,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for RoleRequest<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::<String, Value>::deserialize(deserializer)?;
        // hvac's way to say nothing of it.
        if fields.get("token_type").and_then(Value::as_str) == Some("") {
            fields.remove("token_type");
        }
        let body = earlier::translate(EARLIER, &Body::new(fields));
        let both = body.decode::<WithToken<T>>();
        let WithToken { role, token } =
            both.map_err(|error| de::Error::custom(format!("{SAFE}{error}")))?;
        Ok(Self { role, token })
    }
}

impl<T: JsonSchema> JsonSchema for RoleRequest<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}Request", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = WithToken::<T>::json_schema(generator);
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            for (earlier, present) in EARLIER {
                let said = json!({ "description": format!("Earlier name of {present}."), "deprecated": true });
                properties.insert((*earlier).to_owned(), said);
            }
        }
        schema
    }
}

/// The text of a token that a caller sent, where it has a size that a token may have.
pub(crate) fn token_text(token: &Secret) -> Option<&str> {
    token
        .expose_str()
        .map(str::trim)
        .filter(|text| !text.is_empty() && text.len() <= LONGEST_TOKEN)
}
