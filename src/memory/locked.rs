//! [`LockedKey`]: key bytes alone on pages that stay in RAM.

use std::sync::Once;

use zeroize::Zeroize as _;

/// `N` key bytes on memory pages of their own, locked into RAM while the key lives and wiped when it
/// is dropped. Like `Secret` it has no `Debug`, `Clone` or `PartialEq`.
///
/// Where the operating system allows no (more) locked memory, the key still works from ordinary memory
/// and a warning is logged once; [`LockedKey::is_locked`] tells.
pub struct LockedKey<const N: usize> {
    // Declared first: pages are unlocked (after `Drop` has wiped them) before they are freed.
    guard: Option<region::LockGuard>,
    // Never grows, so the bytes never move. Longer than needed, because the key starts at the first
    // page boundary within: no other allocation, and no other key, shares its pages.
    pages: Vec<u8>,
    start: usize,
}

impl<const N: usize> LockedKey<N> {
    /// Makes a key by letting `fill` write into the locked memory, which starts as zeros.
    pub fn fill(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let page = region::page::size();
        let room = N.next_multiple_of(page);
        let pages = vec![0; room + page];
        let offset = pages.as_ptr().align_offset(page);
        let mut key = Self {
            guard: None,
            // `align_offset` may decline to answer; then the key shares its page and is still locked.
            start: if offset < page { offset } else { 0 },
            pages,
        };
        key.guard = key
            .pages
            .get(key.start..)
            .and_then(|bytes| region::lock(bytes.as_ptr(), N).inspect_err(warn_once).ok());
        if let Some(bytes) = key.bytes_mut() {
            fill(bytes);
        }
        key
    }

    /// Copies `bytes` in; `None` where there are not exactly `N`. The caller wipes its own copy.
    pub fn copy_of(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; N] = bytes.try_into().ok()?;
        Some(Self::fill(|key| key.copy_from_slice(bytes)))
    }

    /// A second copy, locked like the first.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::fill(|key| key.copy_from_slice(self.expose()))
    }

    /// The key itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &[u8; N] {
        // `fill` allocates room for `start + N` bytes; the fallback is never taken.
        self.pages
            .get(self.start..)
            .and_then(|bytes| bytes.first_chunk())
            .unwrap_or(const { &[0; N] })
    }

    /// Whether the key is kept from swap.
    pub fn is_locked(&self) -> bool {
        self.guard.is_some()
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8; N]> {
        self.pages.get_mut(self.start..)?.first_chunk_mut()
    }
}

impl<const N: usize> Drop for LockedKey<N> {
    fn drop(&mut self) {
        self.pages.as_mut_slice().zeroize();
    }
}

fn warn_once(error: &region::Error) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %error,
            "memory cannot be locked, keys may reach swap: raise RLIMIT_MEMLOCK \
             (LimitMEMLOCK=64M in a systemd unit, `ulimit -l`) or switch swap off"
        );
    });
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::*;

    /// `Locked:` of the mapping that holds `address`, in KiB.
    fn locked_kib(address: usize) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let first = line.split_whitespace().next().unwrap();
            if let Some((from, to)) = first.split_once('-') {
                let bound = |text| usize::from_str_radix(text, 16).unwrap();
                inside = (bound(from)..bound(to)).contains(&address);
            } else if inside && first == "Locked:" {
                return line.split_whitespace().nth(1).unwrap().parse().unwrap();
            }
        }
        panic!("no mapping holds the key");
    }

    #[test]
    fn a_key_is_locked_while_it_lives_and_keeps_its_bytes() {
        let key = LockedKey::<32>::fill(|bytes| bytes.copy_from_slice(&[7; 32]));
        let other = key.duplicate();
        assert!(key.is_locked());
        assert!(locked_kib(key.expose().as_ptr().addr()) > 0);
        drop(key);
        assert_eq!(other.expose(), &[7; 32]);
        // Dropping one key must not unlock another.
        assert!(locked_kib(other.expose().as_ptr().addr()) > 0);
    }

    #[test]
    fn only_the_right_number_of_bytes_makes_a_key() {
        assert!(LockedKey::<32>::copy_of(&[1; 31]).is_none());
        assert!(LockedKey::<32>::copy_of(&[1; 33]).is_none());
        assert_eq!(
            LockedKey::<32>::copy_of(&[1; 32]).unwrap().expose(),
            &[1; 32]
        );
    }

    #[test]
    fn a_key_works_where_memory_may_not_be_locked() {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Memlock, none).unwrap();
        let key = LockedKey::<32>::fill(|bytes| bytes.copy_from_slice(&[9; 32]));
        // Root may lock in spite of the limit (CAP_IPC_LOCK).
        if !rustix::process::geteuid().is_root() {
            assert!(!key.is_locked());
        }
        assert_eq!(key.expose(), &[9; 32]);
    }
}
