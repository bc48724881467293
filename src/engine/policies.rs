//! Policies by name: stored as text, kept compiled.
//!
//! **Invariant:** a stored policy that cannot be read takes nothing away from what it denied: a token that
//! has it looks itself up and revokes itself, and does nothing else, until the policy is written anew.

use std::collections::{HashMap, HashSet};
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
/// What is left to a token one of whose policies cannot be read.
const UNREADABLE_TEXT: &str = r#"
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"#;
/// Policies read from storage at a time.
const PAGE: usize = 1000;

/// The policies of one server.
pub struct Policies {
    barrier: Arc<Barrier>,
    table: ArcSwap<Table>,
    compiled: Cache<Vec<String>, Compiled>,
    /// One change at a time, so that memory and storage agree.
    changing: Mutex<()>,
}

#[derive(Clone, Default)]
struct Table {
    by_name: HashMap<String, Arc<Policy>>,
    /// Stored policies that do not parse.
    unreadable: HashSet<String>,
}

/// An ACL and the table it was compiled from. One that is not of the table in use is out of date, whoever
/// kept it and however late.
#[derive(Clone)]
struct Compiled {
    table: Arc<Table>,
    acl: Arc<Acl>,
}

impl Policies {
    /// Loads every policy. The `default` policy is written where there is none.
    pub async fn open(barrier: Arc<Barrier>) -> Result<Self, Failure> {
        let mut table = Table::default();
        let mut after: Option<String> = None;
        loop {
            let page = barrier.entries(PREFIX, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, entry) in page {
                let name = key.strip_prefix(PREFIX).unwrap_or(&key);
                let text = entry.value.expose_str().unwrap_or_default();
                // It must not keep the server down. Its error may quote a word of the text, which is no
                // secret: whoever reads the server's log may know the policies.
                match Policy::parse(name, text) {
                    Ok(policy) => drop(table.by_name.insert(name.to_owned(), Arc::new(policy))),
                    Err(error) => {
                        tracing::error!(
                            policy = name, %error,
                            "stored policy cannot be read: tokens that have it can look themselves up \
                             and revoke themselves, nothing else, until it is written anew"
                        );
                        table.unreadable.insert(name.to_owned());
                    }
                }
            }
        }
        let known = |name| table.by_name.contains_key(name) || table.unreadable.contains(name);
        let default_is_missing = !known(builtin::DEFAULT);
        gauge(&table);
        let policies = Self {
            barrier,
            table: ArcSwap::from_pointee(table),
            compiled: Cache::new(COMPILED_SETS),
            changing: Mutex::new(()),
        };
        if default_is_missing {
            policies
                .put(builtin::DEFAULT, builtin::DEFAULT_TEXT)
                .await?;
        }
        Ok(policies)
    }

    /// The policy of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Policy>> {
        self.table.load().by_name.get(name).cloned()
    }

    /// All names in order, `root` included.
    pub fn names(&self) -> Vec<String> {
        let table = self.table.load();
        let all = table.by_name.keys().chain(&table.unreadable);
        let mut names: Vec<String> = all.cloned().collect();
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
        self.swap(|table| {
            table.unreadable.remove(name);
            table.by_name.insert(name.to_owned(), Arc::new(policy));
        });
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
        self.swap(|table| {
            table.unreadable.remove(name);
            table.by_name.remove(name);
        });
        Ok(())
    }

    /// The compiled form of a set of policies. A name without a policy grants nothing; one whose policy
    /// cannot be read takes away what the others grant, see above.
    pub fn acl(&self, names: &[String]) -> Arc<Acl> {
        let table = self.table.load_full();
        if let Some(compiled) = self.compiled.get(names)
            && Arc::ptr_eq(&compiled.table, &table)
        {
            return compiled.acl;
        }
        let unreadable = names.iter().find(|name| table.unreadable.contains(*name));
        let root =
            (names.iter().any(|name| name == builtin::ROOT)).then(|| Arc::new(builtin::root()));
        let found: Vec<Arc<Policy>> = match unreadable {
            // Under its name, which decisions then show.
            Some(name) => Policy::parse(name, UNREADABLE_TEXT)
                .map(Arc::new)
                .into_iter()
                .collect(),
            None => names
                .iter()
                .filter_map(|name| table.by_name.get(name).cloned())
                .chain(root)
                .collect(),
        };
        let acl = Arc::new(Acl::compile(&found));
        let compiled = Compiled {
            table,
            acl: Arc::clone(&acl),
        };
        self.compiled.insert(names.to_vec(), compiled);
        acl
    }

    fn swap(&self, change: impl FnOnce(&mut Table)) {
        let mut table = Table::clone(&self.table.load());
        change(&mut table);
        gauge(&table);
        self.table.store(Arc::new(table));
        self.compiled.clear();
    }
}

fn gauge(table: &Table) {
    // A count of policies, far below what a float holds exactly.
    let count = u32::try_from(table.unreadable.len()).unwrap_or(u32::MAX);
    metrics::gauge!("daypass_policies_unreadable").set(f64::from(count));
}
