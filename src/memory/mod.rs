//! Process hardening and keys in memory.
//!
//! Three layers keep a key from outliving its use: the global allocator (registered in `main.rs`)
//! wipes every block it frees; [`harden`] forbids core dumps and other processes reading our memory;
//! [`LockedKey`] keeps the few keys that open everything else on pages that are never swapped out.

mod locked;

use rustix::io;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

pub use self::locked::LockedKey;

/// Set to `1`, it lets root and a debugger read this process. Only for the test that looks for secrets
/// in freed memory; never for production.
pub const ALLOW_DUMP: &str = "DAYPASS_ALLOW_DUMP";

/// Makes this process unreadable to others of the same user and keeps it from leaving core dumps.
/// Call it first in `main`, before any secret exists.
///
/// # Errors
/// The operating system refused. A server must not start then.
pub fn harden() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    if std::env::var_os(ALLOW_DUMP).is_some_and(|value| value == "1") {
        tracing::warn!("{ALLOW_DUMP}=1: other processes can read the memory of this one");
        return Ok(());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    // nextest runs each test in a process of its own, so this hardens no other test.
    #[test]
    fn a_hardened_process_leaves_no_core_and_cannot_be_read() {
        assert_ne!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        harden().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
