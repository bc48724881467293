//! [`TestHost`]: everything the engine lends a mount, under a test's control.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Clock, Entropy, Host, Secret, System, async_trait};

use crate::store::MemoryStore;

/// The instant every [`ManualClock`] starts at: 2026-01-01T00:00:00Z.
const START: Duration = Duration::from_secs(1_767_225_600);

/// A host whose parts a test can hold on to. Hosts made of one `TestHost` share them, so that a second
/// backend opened on it sees what a restarted server would.
#[derive(Clone)]
pub struct TestHost {
    /// The mount's storage.
    pub store: Arc<MemoryStore>,
    /// The time, which moves only when told.
    pub clock: Arc<ManualClock>,
    /// Randomness that is the same in every run.
    pub entropy: Arc<SeededEntropy>,
    /// The control plane's answers.
    pub system: Arc<TestSystem>,
    /// The mount's options.
    pub options: BTreeMap<String, String>,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host with empty storage and no options.
    pub fn new() -> Self {
        let entropy = Arc::new(SeededEntropy::new(1));
        Self {
            store: Arc::default(),
            clock: Arc::default(),
            system: Arc::new(TestSystem::new(Arc::clone(&entropy))),
            entropy,
            options: BTreeMap::new(),
        }
    }

    /// The same host with a mount option.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.insert(name.into(), value.into());
        self
    }

    /// What a backend is opened with.
    pub fn host(&self) -> Host {
        Host {
            store: Arc::<MemoryStore>::clone(&self.store),
            clock: Arc::<ManualClock>::clone(&self.clock),
            entropy: Arc::<SeededEntropy>::clone(&self.entropy),
            system: Arc::<TestSystem>::clone(&self.system),
            options: self.options.clone(),
        }
    }
}

/// A clock that stands still until it is moved.
pub struct ManualClock(Mutex<SystemTime>);

impl Default for ManualClock {
    fn default() -> Self {
        Self(Mutex::new(SystemTime::UNIX_EPOCH + START))
    }
}

impl ManualClock {
    /// Moves to `now`, forwards or backwards.
    pub fn set(&self, now: SystemTime) {
        *self.0.lock().unwrap() = now;
    }

    /// Moves forwards.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// Bytes that look random and depend on the seed alone (SplitMix64).
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    /// A generator at its beginning.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Where it is, for [`SeededEntropy::rewind`].
    pub(crate) fn position(&self) -> u64 {
        *self.0.lock().unwrap()
    }

    /// Goes back, to give the same bytes again.
    pub(crate) fn rewind(&self, position: u64) {
        *self.0.lock().unwrap() = position;
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, target: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for chunk in target.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The control plane's answers: settable lease times, and two password policies, `letters` (24
/// letters) and `digits` (12 digits).
pub struct TestSystem {
    entropy: Arc<SeededEntropy>,
    ttls: Mutex<Ttls>,
}

#[derive(Clone, Copy)]
struct Ttls {
    default: Duration,
    max: Duration,
}

impl TestSystem {
    fn new(entropy: Arc<SeededEntropy>) -> Self {
        let ttls = Ttls {
            default: Duration::from_secs(3600),
            max: Duration::from_secs(86_400),
        };
        Self {
            entropy,
            ttls: Mutex::new(ttls),
        }
    }

    /// Sets what a lease gets by default and at most. At first: an hour and a day.
    pub fn set_ttls(&self, default: Duration, max: Duration) {
        *self.ttls.lock().unwrap() = Ttls { default, max };
    }
}

#[async_trait]
impl System for TestSystem {
    async fn generate_password(&self, policy: &str) -> Result<Secret, BackendError> {
        let (alphabet, length): (&[u8], usize) = match policy {
            "letters" => (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", 24),
            "digits" => (b"0123456789", 12),
            _ => {
                let reason = format!("password policy \"{policy}\" does not exist");
                return Err(BackendError::InvalidRole(reason));
            }
        };
        let entropy: &dyn Entropy = &*self.entropy;
        let password: Vec<u8> = (0..length)
            .map(|_| alphabet[entropy.below(alphabet.len())])
            .collect();
        Ok(Secret::new(password))
    }

    fn max_ttl(&self) -> Duration {
        self.ttls.lock().unwrap().max
    }

    fn default_ttl(&self) -> Duration {
        self.ttls.lock().unwrap().default
    }
}
