//! What an auth method answers: who the caller proved to be, and what its token may be like.
//!
//! The engine turns a [`Login`] into an entity, policies and a token; an auth method never makes a
//! token itself.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::backend::Handle;
use crate::body::{Body, SAFE};
use crate::duration;

/// Who an auth method found the caller to be.
pub struct Login {
    /// The caller's name in this auth method, which decides the entity it is.
    pub alias: Alias,
    /// For people and logs; the engine puts the mount's path before it.
    pub display_name: String,
    /// Free key-value pairs, kept with the token and shown to whoever looks it up.
    pub metadata: BTreeMap<String, String>,
    /// Names of groups in the auth method, matched with external groups.
    pub groups: Vec<String>,
    /// What the role says about the token.
    pub token: TokenParameters,
    /// What [`crate::Backend::renew_login`] needs to ask again; never a secret.
    pub renewal: Handle,
    /// Advice for the caller.
    pub warnings: Vec<String>,
}

/// A name in one auth method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alias {
    /// Unique in the auth method: a role id, a user name, a token's subject.
    pub name: String,
    /// What the auth method knows besides.
    pub metadata: BTreeMap<String, String>,
}

/// The two ends of a request's connection, as far as a backend may know.
#[derive(Clone, Default)]
pub struct Peer {
    /// Where the request comes from; none inside the process or over a Unix socket.
    pub address: Option<SocketAddr>,
    /// The certificates that the client presented in TLS, in DER, its own first. That it holds the key is
    /// proved; that anybody vouches for it is not.
    pub certificates: Arc<[Vec<u8>]>,
}

/// A network of addresses. `10.1.2.3` is the network of that one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Whether `address` lies in it. An IPv4 address that came over an IPv6 socket counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether a caller at `address` is within `bounds`; without bounds everyone is, with bounds a caller
    /// of unknown address is not.
    pub fn admit(bounds: &[Self], address: Option<IpAddr>) -> bool {
        bounds.is_empty()
            || address.is_some_and(|address| bounds.iter().any(|bound| bound.contains(address)))
    }

    /// Whether every address of `other` lies in this network.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|net| Self(net.trunc())).map_err(drop)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| {
            de::Error::custom(format!(
                "{SAFE}must be an address or a network, such as 10.0.0.0/8"
            ))
        })
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Whether a token has a record or carries everything itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenType {
    /// What the mount says; a service token where it says nothing.
    #[default]
    Default,
    /// Persistent, renewable, revocable.
    Service,
    /// Sealed and stateless.
    Batch,
    /// A service token unless batch is asked for.
    DefaultService,
    /// A batch token unless service is asked for.
    DefaultBatch,
}

/// What a role says about the tokens made by it. Stored with the role, and shown as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TokenParameters {
    /// The token is valid only from these networks.
    pub token_bound_cidrs: Vec<Cidr>,
    /// Renewals never go beyond this, whatever mount and system allow; 0 for no such cap.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub token_explicit_max_ttl: Duration,
    /// At most, renewals included; 0 for the mount's.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub token_max_ttl: Duration,
    /// Leaves the policy `default` out.
    pub token_no_default_policy: bool,
    /// Requests that may be made with it; 0 for any number.
    pub token_num_uses: u64,
    /// Each renewal gives this much, without end; 0 for none.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub token_period: Duration,
    /// Policies of the token.
    pub token_policies: Vec<String>,
    /// How long the first period lasts; 0 for the mount's default.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub token_ttl: Duration,
    /// Its kind.
    pub token_type: TokenType,
}

/// The same fields in a request, each of them left out or given.
#[derive(Default, Deserialize, JsonSchema)]
pub struct TokenFields {
    /// Networks that the token is valid from.
    #[serde(default)]
    token_bound_cidrs: Option<Vec<Cidr>>,
    /// A cap on renewals, whatever mount and system allow.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    token_explicit_max_ttl: Option<Duration>,
    /// At most, renewals included.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    token_max_ttl: Option<Duration>,
    /// Leaves the policy `default` out.
    #[serde(default)]
    token_no_default_policy: Option<bool>,
    /// Requests that may be made with it.
    #[serde(default)]
    token_num_uses: Option<u64>,
    /// Each renewal gives this much, without end.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    token_period: Option<Duration>,
    /// Policies of the token.
    #[serde(default)]
    token_policies: Option<Vec<String>>,
    /// How long the first period lasts.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    token_ttl: Option<Duration>,
    /// `default`, `service`, `batch`, `default-service` or `default-batch`.
    #[serde(default)]
    token_type: Option<TokenType>,
}

impl TokenParameters {
    /// Takes over what a request gives and checks that it fits together.
    ///
    /// # Errors
    /// What does not fit, naming the fields.
    pub fn update(&mut self, fields: TokenFields) -> Result<(), String> {
        let TokenFields {
            token_bound_cidrs,
            token_explicit_max_ttl,
            token_max_ttl,
            token_no_default_policy,
            token_num_uses,
            token_period,
            token_policies,
            token_ttl,
            token_type,
        } = fields;
        set(&mut self.token_bound_cidrs, token_bound_cidrs);
        set(&mut self.token_explicit_max_ttl, token_explicit_max_ttl);
        set(&mut self.token_max_ttl, token_max_ttl);
        set(&mut self.token_no_default_policy, token_no_default_policy);
        set(&mut self.token_num_uses, token_num_uses);
        set(&mut self.token_period, token_period);
        let names = token_policies.map(|names| {
            let mut names: Vec<String> = names
                .iter()
                .map(|name| name.trim().to_lowercase())
                .filter(|name| !name.is_empty())
                .collect();
            names.sort_unstable();
            names.dedup();
            names
        });
        set(&mut self.token_policies, names);
        set(&mut self.token_ttl, token_ttl);
        set(&mut self.token_type, token_type);
        if !self.token_max_ttl.is_zero() && self.token_ttl > self.token_max_ttl {
            return Err("field \"token_ttl\": is longer than token_max_ttl".into());
        }
        if self.token_policies.iter().any(|name| name == "root") {
            return Err("field \"token_policies\": a login never gives \"root\"".into());
        }
        let batch = matches!(self.token_type, TokenType::Batch | TokenType::DefaultBatch);
        if batch && (!self.token_period.is_zero() || self.token_num_uses > 0) {
            return Err(
                "field \"token_type\": batch tokens have no token_period or token_num_uses".into(),
            );
        }
        Ok(())
    }
}

fn set<T>(target: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *target = given;
    }
}

/// A role's own fields together with those about its tokens.
pub struct WithToken<T> {
    /// The role's own.
    pub role: T,
    /// Those about tokens.
    pub token: TokenFields,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for WithToken<T> {
    /// Reads the same fields twice, each time leniently: serde's flattening would lose that.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = Body::new(Map::<String, Value>::deserialize(deserializer)?);
        let safe = |error| de::Error::custom(format!("{SAFE}{error}"));
        Ok(Self {
            role: body.decode().map_err(safe)?,
            token: body.decode().map_err(safe)?,
        })
    }
}

impl<T: JsonSchema> JsonSchema for WithToken<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}WithToken", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut role = T::json_schema(generator);
        let token = TokenFields::json_schema(generator);
        if let (Some(Value::Object(properties)), Some(Value::Object(more))) =
            (role.get_mut("properties"), token.get("properties").cloned())
        {
            properties.extend(more);
        }
        role
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_shown_and_asked() {
        let cases = [
            // text            shown              inside           outside
            ("10.1.2.3", "10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.3/8", "10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3/32", "10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4"),
            ("fd00::/8", "fd00::/8", "fd12::1", "fe80::1"),
            ("0.0.0.0/0", "0.0.0.0/0", "1.2.3.4", "::1"),
        ];
        for (text, shown, inside, outside) in cases {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), shown);
            assert!(cidr.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!cidr.contains(outside.parse().unwrap()), "{text} {outside}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "host"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
        let bound: Cidr = "10.0.0.0/8".parse().unwrap();
        assert!(Cidr::admit(&[], None));
        assert!(!Cidr::admit(&[bound], None));
        assert!(Cidr::admit(&[bound], Some("10.0.0.1".parse().unwrap())));
    }

    #[derive(Deserialize, JsonSchema)]
    struct Role {
        name: String,
        #[serde(default)]
        uses: u64,
    }

    #[test]
    fn a_role_and_its_token_fields_are_read_as_clients_send_them() {
        let read = |text: &str| {
            let body = Body::new(serde_json::from_str(text).unwrap());
            body.decode::<WithToken<Role>>()
        };
        let both = read(
            r#"{"name":"a","uses":"3","token_ttl":"1h","token_policies":"B,a,b","token_bound_cidrs":"10.0.0.0/8,::1"}"#,
        )
        .unwrap();
        assert_eq!((both.role.name.as_str(), both.role.uses), ("a", 3));
        let mut token = TokenParameters::default();
        token.update(both.token).unwrap();
        assert_eq!(token.token_policies, ["a", "b"]);
        assert_eq!(token.token_ttl, Duration::from_secs(3600));
        assert_eq!(token.token_bound_cidrs.len(), 2);
        // What is not given stays.
        token
            .update(read(r#"{"name":"a","token_num_uses":7}"#).unwrap().token)
            .unwrap();
        assert_eq!((token.token_num_uses, token.token_policies.len()), (7, 2));
        let wrong = |text: &str| match read(text) {
            Ok(both) => TokenParameters::default().update(both.token).unwrap_err(),
            Err(error) => error.to_string(),
        };
        assert!(wrong(r#"{"name":"a","token_bound_cidrs":"x"}"#).contains("token_bound_cidrs"));
        assert!(wrong(r#"{"token_ttl":1}"#).contains("\"name\": is required"));
        for text in [
            r#"{"name":"a","token_ttl":9,"token_max_ttl":8}"#,
            r#"{"name":"a","token_policies":"root"}"#,
            r#"{"name":"a","token_type":"batch","token_period":9}"#,
        ] {
            assert!(wrong(text).starts_with("field \"token_"), "{text}");
        }
    }

    #[test]
    fn the_schema_names_the_fields_of_both() {
        let schema = schemars::schema_for!(WithToken<Role>);
        let properties = schema.get("properties").unwrap();
        assert!(properties.get("name").is_some() && properties.get("token_ttl").is_some());
    }
}
