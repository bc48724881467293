//! `sys/locked-users`: names that were guessed at too often, and letting them try again.

use std::collections::BTreeMap;

use daypass_contract::{NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};

#[derive(Deserialize, JsonSchema)]
struct UnlockRequest {
    mount_accessor: String,
    alias_identifier: String,
}

/// There are no namespaces: the shape is the Vault API's with the one there is.
#[derive(Serialize, JsonSchema)]
struct LockedView {
    by_namespace: Vec<NamespaceView>,
    total: usize,
}

#[derive(Serialize, JsonSchema)]
struct NamespaceView {
    namespace_id: &'static str,
    namespace_path: &'static str,
    counts: usize,
    mount_accessors: Vec<MountView>,
}

#[derive(Serialize, JsonSchema)]
struct MountView {
    mount_accessor: String,
    counts: usize,
    alias_identifiers: Vec<String>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    routes.serve::<NoFields, LockedView, _, _>(
        Operation::Read,
        "sys/locked-users",
        "Lists the names that are locked out, by auth method.",
        list,
    );
    routes.serve::<UnlockRequest, (), _, _>(
        Operation::Write,
        "sys/locked-users/{mount_accessor}/unlock/{alias_identifier}",
        "Lets a name that is locked out try again.",
        unlock,
    );
}

async fn list(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let mut mounts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (mount, name) in engine.locked_names() {
        // One that was disabled meanwhile lets nobody in.
        if let Some(mount) = engine.mounts.by_id(&mount) {
            let accessor = mount.record().accessor.clone();
            mounts.entry(accessor).or_default().push(name);
        }
    }
    let total = mounts.values().map(Vec::len).sum();
    let mount_accessors: Vec<MountView> = mounts
        .into_iter()
        .map(|(mount_accessor, alias_identifiers)| MountView {
            mount_accessor,
            counts: alias_identifiers.len(),
            alias_identifiers,
        })
        .collect();
    let root = NamespaceView {
        namespace_id: "root",
        namespace_path: "",
        counts: total,
        mount_accessors,
    };
    Answer::data(&LockedView {
        by_namespace: if total == 0 { Vec::new() } else { vec![root] },
        total,
    })
}

fn mount_id(engine: &Engine, accessor: &str) -> Option<String> {
    let mounts = engine.mounts.all();
    let found = mounts.iter().map(|mount| mount.record());
    let found = found.into_iter().find(|record| record.accessor == accessor);
    found.map(|record| record.id.clone())
}

async fn unlock(call: SystemCall, request: UnlockRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let mount = mount_id(&engine, &request.mount_accessor).ok_or_else(|| {
        Failure::Invalid("field \"mount_accessor\": there is no such auth method".into())
    })?;
    engine.unlock_name(&mount, &request.alias_identifier);
    Ok(Answer::nothing())
}
