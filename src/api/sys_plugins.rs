//! `sys/plugins/catalog`: the backends that are built in, as clients that expect plugins look for them.
//! Nothing can be added at run time.

use std::collections::BTreeMap;

use daypass_contract::{Access, Keys, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Class, Failure, Serve, SystemCall, SystemRoutes, kinds};

/// The database products, which Vault's API counts as plugins of their own.
const DATABASES: [&str; 1] = ["postgresql-database-plugin"];
/// What is always there, mounted or not.
const TOKEN: &str = "token";

#[derive(Deserialize, JsonSchema)]
struct CatalogRequest {}

#[derive(Deserialize, JsonSchema)]
struct TypeRequest {
    /// `auth`, `database` or `secret`.
    r#type: String,
}

#[derive(Deserialize, JsonSchema)]
struct PluginRequest {
    /// `auth`, `database` or `secret`.
    r#type: String,
    name: String,
}

/// Anything: it is refused unread.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
struct RefusedRequest {}

#[derive(Serialize, JsonSchema)]
struct Catalog {
    auth: Vec<&'static str>,
    database: Vec<&'static str>,
    secret: Vec<&'static str>,
    detailed: Vec<Detail>,
}

#[derive(Serialize, JsonSchema)]
struct Detail {
    builtin: bool,
    deprecation_status: &'static str,
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    version: String,
}

#[derive(Serialize, JsonSchema)]
struct PluginView {
    args: Option<Vec<String>>,
    builtin: bool,
    command: &'static str,
    deprecation_status: &'static str,
    name: String,
    sha256: &'static str,
    version: String,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<CatalogRequest, Catalog, _, _>(
        Read,
        "sys/plugins/catalog",
        "Shows the backends there are; all of them are built in.",
        catalog,
    );
    routes
        .serve::<TypeRequest, Keys, _, _>(
            List,
            "sys/plugins/catalog/{type}",
            "Lists the backends of one type.",
            list,
        )
        .access = Access::Sudo;
    let path = "sys/plugins/catalog/{type}/{name}";
    routes
        .serve::<PluginRequest, PluginView, _, _>(Read, path, "Describes a backend.", read)
        .access = Access::Sudo;
    for (operation, summary) in [
        (Write, "Refuses: backends are built in."),
        (Delete, "Refuses: backends are built in."),
    ] {
        routes
            .serve::<RefusedRequest, (), _, _>(operation, path, summary, |_, _| async {
                Err(Failure::Unsupported(
                    "backends are built in: none can be registered or removed while the server runs"
                        .into(),
                ))
            })
            .access = Access::Sudo;
    }
}

/// The names of each type, in order.
fn plugins() -> BTreeMap<&'static str, Vec<&'static str>> {
    let of = |class: Class| {
        let kinds = kinds().iter().filter(move |kind| kind.class == class);
        kinds.map(|kind| kind.name)
    };
    let mut auth: Vec<&'static str> = of(Class::Auth).chain([TOKEN]).collect();
    auth.sort_unstable();
    BTreeMap::from([
        ("auth", auth),
        ("database", DATABASES.to_vec()),
        ("secret", of(Class::Secrets).collect()),
    ])
}

fn version() -> String {
    format!("v{}+builtin.daypass", crate::VERSION)
}

async fn catalog(_: SystemCall, _: CatalogRequest) -> Result<Answer, Failure> {
    let plugins = plugins();
    let of = |kind: &str| plugins.get(kind).cloned().unwrap_or_default();
    let detailed = plugins.iter().flat_map(|(kind, names)| {
        names.iter().map(|name| Detail {
            builtin: true,
            deprecation_status: "supported",
            name,
            kind,
            version: version(),
        })
    });
    Answer::data(&Catalog {
        auth: of("auth"),
        database: of("database"),
        secret: of("secret"),
        detailed: detailed.collect(),
    })
}

async fn list(_: SystemCall, request: TypeRequest) -> Result<Answer, Failure> {
    let plugins = plugins();
    let names = plugins.get(request.r#type.as_str()).ok_or_else(|| {
        Failure::Invalid("field \"type\": must be auth, database or secret".into())
    })?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Answer::keys(&names)
}

async fn read(_: SystemCall, request: PluginRequest) -> Result<Answer, Failure> {
    let plugins = plugins();
    let there = plugins
        .get(request.r#type.as_str())
        .is_some_and(|names| names.contains(&request.name.as_str()));
    if !there {
        return Err(Failure::NotFound);
    }
    Answer::data(&PluginView {
        args: None,
        builtin: true,
        command: "",
        deprecation_status: "supported",
        name: request.name,
        sha256: "",
        version: version(),
    })
}
