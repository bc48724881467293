//! All that a login asks, read once and kept until it changes.
//!
//! **Invariant:** every write to what a login asks also writes [`GENERATION`], in the same batch. A login reads
//! that one record; where its revision is another, also because of another node, everything is read again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{BackendError, Batch, Host, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::list::List;
use super::refusal::Refusal;
use super::role::{Role, Trusting};
use super::shown::Shown;
use super::trust;
use super::{CONFIG, Config, LISTS, ROLES};

/// Changes with everything else.
const GENERATION: &str = "generation";

/// A list as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredList {
    /// DER in base64.
    pub(super) der: String,
}

impl StoredList {
    /// The list in DER.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where the record is damaged.
    pub(super) fn der(&self) -> Result<Vec<u8>, BackendError> {
        let der = STANDARD.decode(&self.der);
        der.map_err(|_| BackendError::Internal("stored list is not base64".into()))
    }
}

/// The batch with the mark that the table is to be read again.
///
/// # Errors
/// [`BackendError::Internal`], never.
pub(super) fn changed(batch: Batch) -> Result<Batch, BackendError> {
    batch.put_json(GENERATION, &())
}

/// Roles, lists and the configuration, ready to be asked.
#[derive(Default)]
pub(super) struct Table {
    pub(super) config: Config,
    roles: BTreeMap<String, Trusting>,
    lists: Vec<List>,
}

/// A role that a certificate fits.
pub(super) struct Fit<'t> {
    pub(super) name: &'t str,
    pub(super) trusting: &'t Trusting,
    pub(super) alias: String,
    /// The certificates between the one shown and the one trusted.
    pub(super) between: Vec<Vec<u8>>,
}

impl Table {
    /// Whether there is such a role.
    pub(super) fn has(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// The first role, by name, that `shown` fits: that one where `only` names it.
    ///
    /// # Errors
    /// The reason that says most.
    pub(super) fn find(
        &self,
        shown: &Shown,
        only: Option<&str>,
        now: SystemTime,
    ) -> Result<Fit<'_>, Refusal> {
        // Many roles trust the same CA, for which chains are built once.
        let mut known: HashMap<&[u8], Result<Vec<Vec<u8>>, Refusal>> = HashMap::new();
        let mut refused = Refusal::Untrusted;
        for (name, trusting) in &self.roles {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            for certificate in &trusting.certificates {
                let behind = known
                    .entry(certificate.der())
                    .or_insert_with(|| trust::behind(certificate, shown, &self.lists, now));
                let fit = behind
                    .as_ref()
                    .map_err(|refusal| *refusal)
                    .and_then(|between| {
                        trusting.check(shown)?;
                        Ok(Fit {
                            name,
                            trusting,
                            alias: trusting.alias(shown)?,
                            between: between.clone(),
                        })
                    });
                match fit {
                    Ok(fit) => return Ok(fit),
                    Err(refusal) => refused = refused.max(refusal),
                }
            }
        }
        Err(refused)
    }

    async fn read(host: &Host) -> Result<Self, BackendError> {
        let config = host.store.get(CONFIG).await?;
        let config = config.map(|entry| entry.decode()).transpose()?;
        let mut table = Self {
            config: config.unwrap_or_default(),
            ..Self::default()
        };
        for name in crate::names(host, ROLES, None, None).await? {
            if let Some(entry) = host.store.get(&format!("{ROLES}{name}")).await? {
                let role: Role = entry.decode()?;
                table.roles.insert(name, Trusting::read(role)?);
            }
        }
        for name in crate::names(host, LISTS, None, None).await? {
            if let Some(entry) = host.store.get(&format!("{LISTS}{name}")).await? {
                let der = entry.decode::<StoredList>()?.der()?;
                let list = List::read(der);
                table
                    .lists
                    .push(list.map_err(|problem| BackendError::Internal(problem.into()))?);
            }
        }
        Ok(table)
    }
}

/// The table as it was last read, with the revision it was read at.
#[derive(Default)]
pub(super) struct Cache {
    known: RwLock<Option<(Option<Revision>, Arc<Table>)>>,
    reading: Mutex<()>,
}

impl Cache {
    /// The table as it is stored now.
    ///
    /// # Errors
    /// Those of storage.
    pub(super) async fn table(&self, host: &Host) -> Result<Arc<Table>, BackendError> {
        if let Some(table) = self.at(generation(host).await?) {
            return Ok(table);
        }
        let _turn = self.reading.lock().await;
        // Whoever had the turn before may have read it. What changes after this is noticed next time.
        let generation = generation(host).await?;
        if let Some(table) = self.at(generation) {
            return Ok(table);
        }
        let table = Arc::new(Table::read(host).await?);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Some((generation, Arc::clone(&table)));
        Ok(table)
    }

    fn at(&self, generation: Option<Revision>) -> Option<Arc<Table>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (read_at, table) = known.as_ref()?;
        (*read_at == generation).then(|| Arc::clone(table))
    }
}

async fn generation(host: &Host) -> Result<Option<Revision>, BackendError> {
    let entry = host.store.get(GENERATION).await?;
    Ok(entry.map(|entry| entry.revision))
}
