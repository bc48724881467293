//! The rules every backend keeps, as tests that any backend can run.
//!
//! [`run`] is for backends that lease, [`run_unleased`] for those that do not. A rule that is broken
//! ends the test with the rule's name.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use daypass_contract::{
    Backend, BackendError, Handle, Operation, Plan, Planned, Presence, Revocability, async_trait,
};
use serde_json::Value;

use crate::host::TestHost;
use crate::leak::{Logs, Needles, full_text, json_text};
use crate::mounted::{Issued, Mounted};
use crate::requests;

/// A backend under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Opens the backend on `host`. Called again on the same host, it must find what was configured:
    /// that is a restart.
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend>;

    /// Writes what requests need: a connection, a role. Called once for each new host.
    async fn configure(&self, _mounted: &Mounted) {}

    /// Patterns of routes that must not be tried with invented bodies, because they would spoil the
    /// upstream for the other rules (`rotate-root/{name}`).
    fn spared(&self) -> &[&'static str] {
        &[]
    }

    /// Targets whose log records are not searched, because the server never enables them. Each one
    /// needs its reason beside it.
    fn silenced_targets(&self) -> &[&'static str] {
        &[]
    }
}

/// A backend under test that leases.
#[async_trait]
pub trait Case: Subject {
    /// The request that issues one credential.
    fn request(&self) -> (Operation, String, Value);

    /// The parts of the answer's data that grant access.
    fn secrets(&self, data: &Value) -> Vec<String>;

    /// Makes the upstream unreachable; `false` where the test cannot.
    async fn take_upstream_down(&self) -> bool {
        false
    }

    /// Undoes [`Case::take_upstream_down`].
    async fn bring_upstream_up(&self) {}

    /// When the upstream itself will end the credential, where it can be asked.
    async fn upstream_end(&self, _handle: &Handle) -> Option<SystemTime> {
        None
    }
}

/// Runs every rule for a backend that leases.
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn run(case: &impl Case) {
    let mut trial = Trial::begin(case).await;
    trial.planning_is_pure().await;
    trial.issuing_makes_one_real_credential().await;
    trial.revoking_twice_succeeds().await;
    trial.revoking_the_never_issued_succeeds().await;
    trial.a_crash_while_issuing_leaves_it_revocable().await;
    trial.revoking_one_leaves_the_others().await;
    trial.renewing_extends().await;
    trial.an_absent_upstream_is_no_proof().await;
    trial.nothing_shows_a_secret();
    requests::run(case).await;
}

/// Runs the rules for a backend that never leases.
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn run_unleased(subject: &impl Subject) {
    requests::run(subject).await;
    requests::never_leases(subject).await;
}

/// A mount of the case, and everything it showed so far.
struct Trial<'a, C> {
    case: &'a C,
    host: TestHost,
    mounted: Mounted,
    /// Whether a revoked credential is gone at once.
    immediate: bool,
    logs: Logs,
    secrets: Vec<String>,
    /// Texts that others see (errors, handles), with where each came from.
    shown: Vec<(&'static str, String)>,
}

impl<'a, C: Case> Trial<'a, C> {
    async fn begin(case: &'a C) -> Self {
        let logs = Logs::from_now();
        let host = TestHost::new();
        let mounted = Mounted::new(case.open(&host).await, &host);
        case.configure(&mounted).await;
        Self {
            immediate: mounted.backend.revocability() == Revocability::Immediate,
            case,
            host,
            mounted,
            logs,
            secrets: Vec::new(),
            shown: Vec::new(),
        }
    }

    async fn issue(&mut self, rule: &str) -> Issued {
        let (operation, path, body) = self.case.request();
        let issued = match self.mounted.issue(operation, &path, body).await {
            Ok(issued) => issued,
            Err(error) => panic!("{rule}: issuing failed: {error}"),
        };
        let secrets = self.case.secrets(&issued.data);
        assert!(
            !secrets.is_empty() && secrets.iter().all(|secret| secret.len() >= 8),
            "{rule}: `secrets` must name what grants access, in at least 8 characters each"
        );
        self.secrets.extend(secrets);
        self.show_handle(&issued.handle);
        issued
    }

    async fn plan(&mut self, rule: &str) -> Plan {
        let (operation, path, body) = self.case.request();
        match self.mounted.plan(operation, &path, body).await {
            Ok(Planned::Leased(plan)) => {
                self.show_handle(&plan.handle);
                plan
            }
            Ok(Planned::Unleased(_)) => panic!("{rule}: the request gives no lease"),
            Err(error) => panic!("{rule}: planning failed: {error}"),
        }
    }

    fn show_handle(&mut self, handle: &Handle) {
        self.shown.push(("a handle", json_text(handle.as_json())));
    }

    fn show_error(&mut self, error: &BackendError) {
        self.shown.push(("an error", full_text(error)));
    }

    /// Revokes as a restarted server would, with nothing but the stored handle.
    async fn revoke(&mut self, rule: &str, handle: &Handle) {
        let backend = self.case.open(&self.host).await;
        let stored: Handle =
            serde_json::from_str(handle.as_json()).expect("a handle is stored as JSON");
        if let Err(error) = backend.revoke(&stored).await {
            panic!("{rule}: revoking failed: {error}");
        }
    }

    async fn verify(&self, rule: &str, handle: &Handle) -> Presence {
        match self.mounted.backend.verify(handle).await {
            Ok(presence) => presence,
            Err(error) => panic!("{rule}: verifying failed: {error}"),
        }
    }

    async fn expect_present(&self, rule: &str, handle: &Handle) {
        let presence = self.verify(rule, handle).await;
        assert_eq!(presence, Presence::Present, "{rule}: it is not there");
    }

    /// Where revoking is not immediate, the upstream may go on knowing the credential.
    async fn expect_revoked(&self, rule: &str, handle: &Handle) {
        if self.immediate {
            let presence = self.verify(rule, handle).await;
            assert_eq!(presence, Presence::Absent, "{rule}: it is still there");
        }
    }

    async fn planning_is_pure(&mut self) {
        let rule = "planning is pure";
        let plan = self.plan(rule).await;
        let other = self.plan(rule).await;
        assert_ne!(
            plan.handle.as_json(),
            other.handle.as_json(),
            "{rule}: two plans share a handle, so revoking one would revoke both"
        );
        for plan in [plan, other] {
            let presence = self.verify(rule, &plan.handle).await;
            assert_eq!(presence, Presence::Absent, "{rule}: it is there already");
        }
    }

    async fn issuing_makes_one_real_credential(&mut self) {
        let rule = "issuing makes one real credential";
        let issued = self.issue(rule).await;
        self.expect_present(rule, &issued.handle).await;
        self.revoke(rule, &issued.handle).await;
        self.expect_revoked(rule, &issued.handle).await;
    }

    async fn revoking_twice_succeeds(&mut self) {
        let rule = "revoking twice succeeds";
        let issued = self.issue(rule).await;
        self.revoke(rule, &issued.handle).await;
        self.revoke(rule, &issued.handle).await;
        self.expect_revoked(rule, &issued.handle).await;
    }

    async fn revoking_the_never_issued_succeeds(&mut self) {
        let rule = "revoking the never issued succeeds";
        let plan = self.plan(rule).await;
        self.revoke(rule, &plan.handle).await;
        self.expect_revoked(rule, &plan.handle).await;
    }

    /// Drops the future of `issue` at each place where it waits, and last when it is done: the answer
    /// is lost either way.
    async fn a_crash_while_issuing_leaves_it_revocable(&mut self) {
        let rule = "a crash while issuing leaves it revocable";
        for waits in 0..16 {
            let plan = self.plan(rule).await;
            let handle = plan.handle.clone();
            let terms = self.mounted.terms(plan.ttl);
            let finished = match cut_short(plan.issue(terms), waits).await {
                Some(Err(error)) => panic!("{rule}: issuing failed: {error}"),
                outcome => outcome.is_some(),
            };
            // What was sent before the crash may still be on its way, as after a real one: the
            // engine, too, revokes until it is gone.
            for _ in 0..100 {
                self.revoke(rule, &handle).await;
                if self.verify(rule, &handle).await == Presence::Absent {
                    break;
                }
            }
            self.expect_revoked(rule, &handle).await;
            if finished {
                return;
            }
        }
    }

    async fn revoking_one_leaves_the_others(&mut self) {
        let rule = "revoking one leaves the others";
        let one = self.issue(rule).await;
        let other = self.issue(rule).await;
        self.revoke(rule, &one.handle).await;
        self.expect_present(rule, &other.handle).await;
        self.revoke(rule, &other.handle).await;
    }

    async fn renewing_extends(&mut self) {
        let rule = "renewing extends";
        let issued = self.issue(rule).await;
        let handle = &issued.handle;
        let longer = self
            .mounted
            .lasting(issued.terms.ttl + Duration::from_secs(600));
        let renewed = self.mounted.backend.renew(handle, longer).await;
        match (issued.renewable, renewed) {
            (true, Err(error)) => panic!("{rule}: renewing failed: {error}"),
            (false, Ok(())) => panic!("{rule}: it says that it cannot be renewed, and was"),
            (false, Err(error)) => self.show_error(&error),
            (true, Ok(())) => {
                self.expect_present(rule, handle).await;
                if let Some(end) = self.case.upstream_end(handle).await {
                    assert!(
                        end >= longer.ends_at,
                        "{rule}: the upstream ends it earlier"
                    );
                }
            }
        }
        self.revoke(rule, handle).await;
        if self.immediate {
            if let Err(error) = self.mounted.backend.renew(handle, longer).await {
                self.show_error(&error);
            }
            let presence = self.verify(rule, handle).await;
            assert_eq!(presence, Presence::Absent, "{rule}: the revoked came back");
        }
    }

    async fn an_absent_upstream_is_no_proof(&mut self) {
        let rule = "an absent upstream is no proof";
        let issued = self.issue(rule).await;
        // With the same randomness, the plan that will fail holds the secrets of one that did not:
        // that is how they are known, to be looked for in the error.
        let position = self.host.entropy.position();
        let twin = self.issue(rule).await;
        self.revoke(rule, &twin.handle).await;
        self.host.entropy.rewind(position);
        let plan = self.plan(rule).await;
        let planned = plan.handle.clone();
        if !self.case.take_upstream_down().await {
            self.revoke(rule, &issued.handle).await;
            return;
        }
        let backend = Arc::clone(&self.mounted.backend);
        match backend.revoke(&issued.handle).await {
            Err(error @ BackendError::Unavailable { .. }) => self.show_error(&error),
            Err(error) => panic!("{rule}: revoking says {error:?}, not Unavailable"),
            Ok(how) => panic!("{rule}: revoking says {how:?} without asking anyone"),
        }
        match backend.verify(&issued.handle).await {
            Err(error) => self.show_error(&error),
            Ok(presence) => panic!("{rule}: verifying says {presence:?} without asking anyone"),
        }
        match plan
            .issue(self.mounted.lasting(Duration::from_secs(60)))
            .await
        {
            Err(error @ BackendError::Unavailable { .. }) => self.show_error(&error),
            Err(error) => panic!("{rule}: issuing says {error:?}, not Unavailable"),
            Ok(_) => panic!("{rule}: issuing succeeded without asking anyone"),
        }
        self.case.bring_upstream_up().await;
        for handle in [&issued.handle, &planned] {
            if let Err(error) = backend.revoke(handle).await {
                panic!("{rule}: the upstream is back, but revoking failed: {error}");
            }
            self.expect_revoked(rule, handle).await;
        }
    }

    fn nothing_shows_a_secret(&self) {
        let rule = "nothing shows a secret";
        let records = self.logs.records(self.case.silenced_targets());
        for secret in &self.secrets {
            let needles = Needles::of(secret);
            for (place, text) in &self.shown {
                assert!(!needles.found_in(text), "{rule}: {place} does");
            }
            for record in &records {
                let target = record.split("\"target\":").nth(1).unwrap_or_default();
                let target: String = target.chars().take(60).collect();
                assert!(
                    !needles.found_in(record),
                    "{rule}: a log record does: {target}"
                );
            }
        }
    }
}

/// Polls `future` until it is ready or has waited more than `waits` times; then it is dropped.
async fn cut_short<T>(future: impl Future<Output = T>, mut waits: usize) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if waits == 0 => Poll::Ready(None),
        Poll::Pending => {
            waits -= 1;
            Poll::Pending
        }
    })
    .await
}
