//! [`Bound`]: a network that remembers how it was written.

use std::borrow::Cow;
use std::net::IpAddr;

use daypass_contract::Cidr;
use daypass_contract::body::SAFE;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network that secret ids may be used from. Terraform compares what it reads with what it wrote, so
/// `10.1.2.3/32` stays that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    text: String,
    network: Cidr,
}

impl Bound {
    /// Whether a caller at `address` is within `bounds`; without bounds everyone is.
    pub(super) fn admit(bounds: &[Self], address: Option<IpAddr>) -> bool {
        bounds.is_empty()
            || address
                .is_some_and(|address| bounds.iter().any(|bound| bound.network.contains(address)))
    }

    /// The network itself.
    pub(super) fn network(&self) -> Cidr {
        self.network
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let network = text.parse().map_err(|()| {
            de::Error::custom(format!(
                "{SAFE}must be an address or a network, such as 10.0.0.0/8"
            ))
        })?;
        Ok(Self { text, network })
    }
}

impl JsonSchema for Bound {
    fn schema_name() -> Cow<'static, str> {
        "Bound".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Whether all of `inner` lies within `outer`; without `outer` everything does.
pub(super) fn within(inner: &[Cidr], outer: &[Cidr]) -> bool {
    outer.is_empty()
        || inner
            .iter()
            .all(|inner| outer.iter().any(|outer| outer.covers(inner)))
}
