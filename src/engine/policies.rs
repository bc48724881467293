//! Policies by name: stored as text, kept compiled.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use daypass_contract::{Batch, Secret};
use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::answer::Failure;
use crate::policy::{Acl, Policy, builtin};
use crate::storage::Barrier;

const PREFIX: &str = "policy/acl/";
/// Distinct sets of policies whose compiled form is kept.
const COMPILED_SETS: usize = 4096;
/// Policies read from storage at a time.
const PAGE: usize = 1000;

/// The policies of one server.
pub struct Policies {
    barrier: Arc<Barrier>,
    by_name: ArcSwap<HashMap<String, Arc<Policy>>>,
    compiled: Cache<Vec<String>, Compiled>,
    /// One change at a time, so that memory and storage agree.
    changing: Mutex<()>,
}

/// An ACL and the table it was compiled from. One that is not of the table in use is out of date, whoever
/// kept it and however late.
#[derive(Clone)]
struct Compiled {
    table: Arc<HashMap<String, Arc<Policy>>>,
    acl: Arc<Acl>,
}

impl Policies {
    /// Loads every policy. The `default` policy is written where there is none.
    pub async fn open(barrier: Arc<Barrier>) -> Result<Self, Failure> {
        let mut by_name = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = barrier.entries(PREFIX, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, entry) in page {
                let name = key.strip_prefix(PREFIX).unwrap_or(&key);
                let text = entry.value.expose_str().unwrap_or_default();
                // A policy that does not parse grants nothing, but it must not keep the server down.
                match Policy::parse(name, text) {
                    Ok(policy) => drop(by_name.insert(name.to_owned(), Arc::new(policy))),
                    Err(error) => {
                        tracing::error!(policy = name, %error, "stored policy is not valid");
                    }
                }
            }
        }
        let policies = Self {
            barrier,
            by_name: ArcSwap::from_pointee(by_name),
            compiled: Cache::new(COMPILED_SETS),
            changing: Mutex::new(()),
        };
        if policies.get(builtin::DEFAULT).is_none() {
            policies
                .put(builtin::DEFAULT, builtin::DEFAULT_TEXT)
                .await?;
        }
        Ok(policies)
    }

    /// The policy of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Policy>> {
        self.by_name.load().get(name).cloned()
    }

    /// All names in order, `root` included.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.by_name.load().keys().cloned().collect();
        names.push(builtin::ROOT.to_owned());
        names.sort_unstable();
        names
    }

    /// Writes a policy. It applies to every token that has it from the next request on.
    pub async fn put(&self, name: &str, text: &str) -> Result<(), Failure> {
        let name =
            &*builtin::writable_name(name).map_err(|error| Failure::Invalid(error.to_string()))?;
        let policy =
            Policy::parse(name, text).map_err(|error| Failure::Invalid(error.to_string()))?;
        let _change = self.changing.lock().await;
        self.barrier
            .apply(Batch::new().put(format!("{PREFIX}{name}"), Secret::new(text)))
            .await?;
        self.swap(|by_name| drop(by_name.insert(name.to_owned(), Arc::new(policy))));
        Ok(())
    }

    /// Deletes a policy; no error where there is none.
    pub async fn delete(&self, name: &str) -> Result<(), Failure> {
        let name =
            &*builtin::deletable_name(name).map_err(|error| Failure::Invalid(error.to_string()))?;
        let _change = self.changing.lock().await;
        self.barrier
            .apply(Batch::new().delete(format!("{PREFIX}{name}")))
            .await?;
        self.swap(|by_name| drop(by_name.remove(name)));
        Ok(())
    }

    /// The compiled form of a set of policies. A name without a policy grants nothing.
    pub fn acl(&self, names: &[String]) -> Arc<Acl> {
        let by_name = self.by_name.load_full();
        if let Some(compiled) = self.compiled.get(names)
            && Arc::ptr_eq(&compiled.table, &by_name)
        {
            return compiled.acl;
        }
        let root =
            (names.iter().any(|name| name == builtin::ROOT)).then(|| Arc::new(builtin::root()));
        let found: Vec<Arc<Policy>> = names
            .iter()
            .filter_map(|name| by_name.get(name).cloned())
            .chain(root)
            .collect();
        let acl = Arc::new(Acl::compile(&found));
        let compiled = Compiled {
            table: by_name,
            acl: Arc::clone(&acl),
        };
        self.compiled.insert(names.to_vec(), compiled);
        acl
    }

    fn swap(&self, change: impl FnOnce(&mut HashMap<String, Arc<Policy>>)) {
        let mut by_name = HashMap::clone(&self.by_name.load());
        change(&mut by_name);
        self.by_name.store(Arc::new(by_name));
        self.compiled.clear();
    }
}
