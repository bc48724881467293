//! A clock and a source of entropy for tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daypass_contract::{Clock, Entropy};

/// Always the same instant.
pub(crate) struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}

/// Never the same bytes twice in one process.
pub(crate) struct Counting;

impl Entropy for Counting {
    fn fill(&self, target: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for chunk in target.chunks_mut(8) {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            // Spread over all eight bytes, one to one.
            let bytes = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
