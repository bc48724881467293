//! End-to-end tests: the real program, over TLS, with real clients and real upstreams.
//!
//! Every test starts servers of its own on free ports, in temporary folders. What they need besides
//! cargo is installed by `scripts/install-test-tools.sh`. A missing tool fails the tests that need it,
//! unless `DAYPASS_IT_SKIP` names it (`postgresql`, `clients`, `gdb`, `openssh`; comma separated).
//!
//! Nothing waits for a fixed time: [`wait_for`] asks until a condition holds or its deadline passes.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a failed expectation here is a failed test"
)]

mod api_table;
mod audit_devices;
mod authorization;
mod canary;
mod clients;
mod crash;
mod database;
mod federated_logins;
mod http;
mod identity;
mod linter;
mod logins;
mod operation;
mod operator;
mod outage;
mod readme;
mod server;
mod sessions;
mod ssh;
mod tls;
mod tools;
mod transit;

use std::time::{Duration, Instant};

/// How long anything may take on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer; panics with `what` when `patience` ends.
fn wait_for<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
