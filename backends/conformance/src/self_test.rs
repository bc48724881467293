//! The suite against a backend that is right, and against one wrong in each way a rule forbids: every
//! rule is seen to fail.
#![allow(
    clippy::unused_async,
    reason = "a handler is async, whether it waits or not"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Call, Credential, Entropy, Handle, Host, Json, NoFields,
    Operation, Plan, Planned, Presence, Reply, Revocability, Revocation, Terms, TtlWish,
    async_trait,
};
use serde_json::{Value, json};

use super::{Case, Mounted, Subject, TestHost, run, run_unleased};

/// What is wrong with the fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    BestEffort,
    PlanTouchesTheUpstream,
    PlansShareAHandle,
    IssueMakesNothing,
    RevokeNeedsMemory,
    RevokeMissesHalfIssued,
    RevokeFailsOnTheGone,
    RevokeFailsOnTheNeverIssued,
    RevokeTakesTheOthers,
    RenewDoesNothing,
    RenewBringsBack,
    RenewUndeclared,
    DownIsGone,
    DownIsAbsent,
    DownIsRefused,
    DownFailsForever,
    HandleHoldsSecret,
    ErrorQuotesSecret,
    LogQuotesSecret,
    ErrorQuotesValue,
    WarningQuotesValue,
    LogQuotesValue,
    PanicsWithoutBody,
}

/// Something that knows accounts.
#[derive(Default)]
struct Upstream {
    accounts: BTreeMap<String, SystemTime>,
    half_made: BTreeSet<String>,
    ever: BTreeSet<String>,
    down: bool,
}

struct Fake {
    flaw: Flaw,
    upstream: Arc<Mutex<Upstream>>,
    host: Host,
    remembered: Mutex<BTreeSet<String>>,
}

struct FakeCase {
    flaw: Flaw,
    upstream: Arc<Mutex<Upstream>>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Account {
    user: String,
    password: String,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Config {
    options: Option<ConfigOptions>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct ConfigOptions {
    login: Option<String>,
}

impl Fake {
    fn reach(&self) -> Result<(), BackendError> {
        if !self.upstream.lock().unwrap().down {
            return Ok(());
        }
        if self.flaw == Flaw::DownIsRefused {
            let reason = "no".into();
            return Err(BackendError::Refused { reason });
        }
        Err(BackendError::Unavailable {
            retry_after: None,
            source: "connection refused".into(),
        })
    }

    async fn creds(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Planned<Account>, BackendError> {
        let bytes = |entropy: &dyn Entropy| hex::encode(entropy.bytes::<8>());
        let mut user = bytes(&*self.host.entropy);
        let password = bytes(&*self.host.entropy);
        if self.flaw == Flaw::PlansShareAHandle {
            user = "shared".into();
        }
        if self.flaw == Flaw::PlanTouchesTheUpstream {
            let mut upstream = self.upstream.lock().unwrap();
            let now = self.host.clock.now();
            upstream.accounts.insert(user.clone(), now);
        }
        let flaw = self.flaw;
        let handle = match flaw {
            Flaw::HandleHoldsSecret => json!({"user": user, "login": hex::encode(&password)}),
            _ => json!({"user": user}),
        };
        let plan = Plan::new(
            Handle::encode(&handle)?,
            TtlWish::default(),
            async move |terms| {
                if self.flaw == Flaw::ErrorQuotesSecret && self.reach().is_err() {
                    let source = format!("CREATE USER … PASSWORD '{password}'").into();
                    return Err(BackendError::Unavailable {
                        retry_after: None,
                        source,
                    });
                }
                self.reach()?;
                if self.flaw == Flaw::LogQuotesSecret {
                    tracing::trace!(login = STANDARD.encode(format!("u:{password}")), "sending");
                }
                self.upstream.lock().unwrap().half_made.insert(user.clone());
                tokio::task::yield_now().await;
                {
                    let mut upstream = self.upstream.lock().unwrap();
                    upstream.ever.insert(user.clone());
                    if self.flaw != Flaw::IssueMakesNothing {
                        upstream.accounts.insert(user.clone(), terms.ends_at);
                    }
                    upstream.half_made.remove(&user);
                }
                self.remembered.lock().unwrap().insert(user.clone());
                Ok(Credential {
                    data: Json::of(&Account { user, password })?,
                    warnings: Vec::new(),
                })
            },
        );
        Ok(Planned::Leased(match flaw {
            Flaw::RenewUndeclared => plan.not_renewable(),
            _ => plan,
        }))
    }

    async fn config(self: Arc<Self>, _: Call, request: Config) -> Result<Reply<()>, BackendError> {
        if self.flaw == Flaw::PanicsWithoutBody {
            assert!(request.options.is_some(), "a body was expected");
        }
        let login = request.options.and_then(|options| options.login);
        let Some(login) = login else {
            return Ok(Reply::nothing());
        };
        match self.flaw {
            Flaw::ErrorQuotesValue => {
                Err(BackendError::InvalidRequest(format!("bad login {login}")))
            }
            Flaw::WarningQuotesValue => Ok(Reply::nothing().warn(format!("odd login {login}"))),
            Flaw::LogQuotesValue => {
                tracing::info!("login {login}");
                Ok(Reply::nothing())
            }
            _ => Ok(Reply::nothing()),
        }
    }

    fn user(handle: &Handle) -> Result<String, BackendError> {
        let value: Value = handle.decode()?;
        Ok(value["user"].as_str().unwrap().to_owned())
    }
}

#[async_trait]
impl Backend for Fake {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        let mut routes = BackendRoutes::default();
        routes.plan(
            &self,
            Operation::Read,
            "creds/{role}",
            "Issues.",
            Fake::creds,
        );
        routes.answer(
            &self,
            Operation::Write,
            "config",
            "Configures.",
            Fake::config,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        match self.flaw {
            Flaw::BestEffort => Revocability::BestEffort {
                reason: "sessions last an hour".into(),
            },
            _ => Revocability::Immediate,
        }
    }

    async fn renew(&self, handle: &Handle, terms: Terms) -> Result<(), BackendError> {
        self.reach()?;
        let mut upstream = self.upstream.lock().unwrap();
        let user = Self::user(handle)?;
        match (self.flaw, upstream.accounts.get_mut(&user)) {
            (Flaw::RenewDoesNothing, _) => Ok(()),
            (Flaw::RenewBringsBack, None) => {
                upstream.accounts.insert(user, terms.ends_at);
                Ok(())
            }
            (_, Some(end)) => {
                *end = terms.ends_at;
                Ok(())
            }
            (_, None) => Err(BackendError::NotFound),
        }
    }

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        if self.flaw == Flaw::DownIsGone && self.reach().is_err() {
            return Ok(Revocation::AlreadyGone);
        }
        self.reach()?;
        let user = Self::user(handle)?;
        let mut upstream = self.upstream.lock().unwrap();
        if self.flaw != Flaw::RevokeMissesHalfIssued {
            upstream.half_made.remove(&user);
        }
        let known = upstream.accounts.contains_key(&user);
        let ever = upstream.ever.contains(&user);
        match self.flaw {
            Flaw::RevokeNeedsMemory if !self.remembered.lock().unwrap().contains(&user) => {
                return Ok(Revocation::AlreadyGone);
            }
            Flaw::RevokeFailsOnTheGone if ever && !known => return Err(BackendError::NotFound),
            Flaw::RevokeFailsOnTheNeverIssued if !ever => return Err(BackendError::NotFound),
            Flaw::RevokeTakesTheOthers => upstream.accounts.clear(),
            Flaw::DownFailsForever if upstream.ever.contains("down") => {
                return Err(BackendError::Internal("stuck".into()));
            }
            Flaw::BestEffort => return Ok(Revocation::Revoked),
            _ => {}
        }
        upstream.accounts.remove(&user);
        Ok(if known {
            Revocation::Revoked
        } else {
            Revocation::AlreadyGone
        })
    }

    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError> {
        if self.flaw == Flaw::DownIsAbsent && self.reach().is_err() {
            return Ok(Presence::Absent);
        }
        self.reach()?;
        let user = Self::user(handle)?;
        let upstream = self.upstream.lock().unwrap();
        let known = upstream.accounts.contains_key(&user) || upstream.half_made.contains(&user);
        Ok(if known {
            Presence::Present
        } else {
            Presence::Absent
        })
    }
}

#[async_trait]
impl Subject for FakeCase {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        Arc::new(Fake {
            flaw: self.flaw,
            upstream: Arc::clone(&self.upstream),
            host: host.host(),
            remembered: Mutex::default(),
        })
    }

    async fn configure(&self, mounted: &Mounted) {
        let config = json!({"options": {"login": "admin"}});
        let _ = mounted.write("config", config).await;
    }
}

#[async_trait]
impl Case for FakeCase {
    fn request(&self) -> (Operation, String, Value) {
        (Operation::Read, "creds/ci".into(), Value::Null)
    }

    fn secrets(&self, data: &Value) -> Vec<String> {
        vec![data["password"].as_str().unwrap().to_owned()]
    }

    async fn take_upstream_down(&self) -> bool {
        let mut upstream = self.upstream.lock().unwrap();
        upstream.ever.insert("down".into());
        upstream.down = true;
        true
    }

    async fn bring_upstream_up(&self) {
        self.upstream.lock().unwrap().down = false;
    }

    async fn upstream_end(&self, handle: &Handle) -> Option<SystemTime> {
        let user = Fake::user(handle).ok()?;
        self.upstream.lock().unwrap().accounts.get(&user).copied()
    }
}

/// What the suite says to a fake with this flaw; empty where it has nothing to say.
fn verdict(flaw: Flaw, leases: bool) -> String {
    let case = FakeCase {
        flaw,
        upstream: Arc::default(),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        if leases {
            runtime.block_on(run(&case));
        } else {
            runtime.block_on(run_unleased(&case));
        }
    }));
    match outcome {
        Ok(()) => String::new(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
        },
    }
}

#[test]
fn every_rule_is_seen_to_fail() {
    let one = "issuing makes one real credential: ";
    let twice = "revoking twice succeeds: ";
    let renew = "renewing extends: ";
    let down = "an absent upstream is no proof: ";
    let shows = "nothing shows a secret: ";
    let repeats = "no answer repeats a value: ";
    let cases = [
        (Flaw::Nothing, "", ""),
        (Flaw::BestEffort, "", ""),
        (
            Flaw::PlanTouchesTheUpstream,
            "planning is pure: ",
            "there already",
        ),
        (
            Flaw::PlansShareAHandle,
            "planning is pure: ",
            "share a handle",
        ),
        (Flaw::IssueMakesNothing, one, "is not there"),
        (Flaw::RevokeNeedsMemory, one, "still there"),
        (
            Flaw::RevokeMissesHalfIssued,
            "a crash while issuing",
            "still there",
        ),
        (Flaw::RevokeFailsOnTheGone, twice, "revoking failed"),
        (
            Flaw::RevokeFailsOnTheNeverIssued,
            "revoking the never issued",
            "failed",
        ),
        (
            Flaw::RevokeTakesTheOthers,
            "revoking one leaves the others: ",
            "not there",
        ),
        (Flaw::RenewDoesNothing, renew, "ends it earlier"),
        (Flaw::RenewBringsBack, renew, "came back"),
        (Flaw::RenewUndeclared, renew, "cannot be renewed, and was"),
        (Flaw::DownIsGone, down, "revoking says AlreadyGone"),
        (Flaw::DownIsAbsent, down, "verifying says Absent"),
        (Flaw::DownIsRefused, down, "not Unavailable"),
        (Flaw::DownFailsForever, down, "the upstream is back, but"),
        (Flaw::HandleHoldsSecret, shows, "a handle"),
        (Flaw::ErrorQuotesSecret, shows, "an error"),
        (Flaw::LogQuotesSecret, shows, "a log record"),
        (Flaw::ErrorQuotesValue, repeats, "bad login"),
        (Flaw::WarningQuotesValue, repeats, "odd login"),
        (Flaw::LogQuotesValue, repeats, "in the log"),
        (
            Flaw::PanicsWithoutBody,
            "every route answers: ",
            "config panics",
        ),
    ];
    for (flaw, rule, detail) in cases {
        let text = verdict(flaw, true);
        assert!(
            text.contains(rule) && text.contains(detail),
            "{flaw:?}: {text}"
        );
        assert_eq!(text.is_empty(), rule.is_empty(), "{flaw:?}: {text}");
    }
    let text = verdict(Flaw::Nothing, false);
    assert!(
        text.starts_with("a backend without leases plans none: "),
        "{text}"
    );
}
