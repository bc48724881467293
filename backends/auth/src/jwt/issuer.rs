//! The keys that an issuer publishes, fetched when they are needed and kept.
//!
//! # Invariants
//!
//! * **No amplification.** Whatever tokens callers bring, the issuer is asked by one request at a time and
//!   at most once in [`PAUSE`].
//! * **An issuer that is down stops nobody** whose key is known: keys are used for up to [`LONGEST_KEPT`]
//!   while there are no newer ones.
//! * **An issuer that is up is obeyed.** A key that it withdrew is gone here after [`FRESH`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Clock};
use reqwest::Url;
use serde::Deserialize;

use super::jws::{Algorithm, KeySet};
use crate::federated::{Failed, Upstream, check_url};

/// How long keys are used before the issuer is asked again.
const FRESH: Duration = Duration::from_secs(600);

/// How long it is left alone after it was asked.
const PAUSE: Duration = Duration::from_secs(10);

/// How long keys are used while the issuer cannot be asked.
const LONGEST_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Where the keys are published.
pub(crate) enum Source {
    /// Where the discovery document of this issuer says.
    Discovery(String),
    /// Here.
    KeySet(Url),
}

/// The keys of one issuer.
pub(crate) struct RemoteKeys {
    source: Source,
    upstream: Upstream,
    algorithms: Vec<Algorithm>,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// Held by the one request that asks the issuer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetched_at: Option<SystemTime>,
    asked_at: Option<SystemTime>,
    /// Why the last question failed; none where it did not.
    failed: Option<Failed>,
}

/// What is known for a token.
enum Found {
    /// Keys that may be used without more ado.
    Fresh(Arc<KeySet>),
    /// Keys that may be used where there are no newer ones.
    Old(Arc<KeySet>),
    /// No key that could have signed it.
    Nothing,
}

impl RemoteKeys {
    pub(crate) fn new(
        source: Source,
        upstream: Upstream,
        algorithms: Vec<Algorithm>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            source,
            upstream,
            algorithms,
            clock,
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Keys that may verify a token with this key id; none where the issuer has no such key.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where it may have one but cannot be asked.
    pub(crate) async fn keys(
        &self,
        kid: Option<&str>,
    ) -> Result<Option<Arc<KeySet>>, BackendError> {
        let old = match self.look(kid) {
            Found::Fresh(keys) => return Ok(Some(keys)),
            Found::Old(keys) => Some(keys),
            Found::Nothing => None,
        };
        let _asking = match (&old, self.asking.try_lock()) {
            (_, Ok(asking)) => asking,
            // Someone else asks; what is known will do until then.
            (Some(_), Err(_)) => return Ok(old),
            (None, Err(_)) => self.asking.lock().await,
        };
        if let Found::Fresh(keys) = self.look(kid) {
            return Ok(Some(keys));
        }
        self.ask().await;
        match self.look(kid) {
            Found::Fresh(keys) | Found::Old(keys) => Ok(Some(keys)),
            Found::Nothing => match self.known().failed.clone() {
                Some(failed) => Err(failed.unavailable("the keys of the issuer")),
                None => Ok(None),
            },
        }
    }

    /// Keys newer than `than`, which did not verify a token; none where there are none. An issuer may have
    /// changed a key that has no id, or kept the id.
    pub(crate) async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        let _asking = self.asking.lock().await;
        let current = || {
            let keys = self.known().keys.clone();
            keys.filter(|keys| !Arc::ptr_eq(keys, than))
        };
        if let Some(keys) = current() {
            return Some(keys);
        }
        self.ask().await;
        current()
    }

    /// Fetches the keys, for an operator who wants to know whether that works.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) async fn check(&self) -> Result<(), Failed> {
        let keys = self.fetch().await?;
        if keys.is_empty() {
            return Err(Failed::Unexpected("a key set with keys that can be used"));
        }
        Ok(())
    }

    fn look(&self, kid: Option<&str>) -> Found {
        let (now, known) = (self.clock.now(), self.known());
        match (&known.keys, known.fetched_at) {
            (Some(keys), Some(at)) if keys.may_verify(kid) => match apart(at, now) {
                age if age < FRESH => Found::Fresh(Arc::clone(keys)),
                age if age < LONGEST_KEPT => Found::Old(Arc::clone(keys)),
                _ => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    /// Asks the issuer, unless it was asked just now, and remembers what came of it.
    async fn ask(&self) {
        {
            let (now, mut known) = (self.clock.now(), self.known());
            if known.asked_at.is_some_and(|at| apart(at, now) < PAUSE) {
                return;
            }
            // Before it is asked: should the caller go away meanwhile, no more is known than this.
            known.asked_at = Some(now);
            known.failed = Some(Failed::TimedOut);
        }
        let fetched = self.fetch().await;
        let (now, mut known) = (self.clock.now(), self.known());
        known.asked_at = Some(now);
        match fetched {
            Ok(keys) => {
                known.keys = Some(Arc::new(keys));
                known.fetched_at = Some(now);
                known.failed = None;
            }
            Err(failed) => known.failed = Some(failed),
        }
    }

    async fn fetch(&self) -> Result<KeySet, Failed> {
        let url = match &self.source {
            Source::KeySet(url) => url.clone(),
            Source::Discovery(issuer) => self.discover(issuer).await?,
        };
        let document = self.upstream.get(url).await?;
        KeySet::from_jwks(&document, &self.algorithms).ok_or(Failed::Unexpected("a key set"))
    }

    /// Where the issuer says that its keys are.
    async fn discover(&self, issuer: &str) -> Result<Url, Failed> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let address = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let url = check_url(&address).map_err(Failed::Unexpected)?;
        let document = self.upstream.get(url).await?;
        let document: Document = serde_json::from_slice(&document)
            .map_err(|_| Failed::Unexpected("a discovery document"))?;
        // OpenID Connect Discovery 1.0 §4.3: letter by letter, or one issuer could speak for another.
        if document.issuer != issuer {
            return Err(Failed::Unexpected(
                "a discovery document of the issuer that oidc_discovery_url names, letter by letter",
            ));
        }
        check_url(&document.jwks_uri)
            .map_err(|_| Failed::Unexpected("a discovery document with a jwks_uri of https"))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far two instants are apart. A clock that was set back counts as time that went by.
fn apart(one: SystemTime, other: SystemTime) -> Duration {
    other
        .duration_since(one)
        .unwrap_or_else(|backwards| backwards.duration())
}
