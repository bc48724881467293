//! Mounts and the request pipeline: nothing reaches a backend around it.
//!
//! [`ControlPlane`] lives as long as the process: seal, audit log, the table of system endpoints.
//! [`Engine`] exists only while unsealed: tokens, policies, leases, mounts.
//!
//! **Invariant:** a request runs only through [`ControlPlane::serve`], which authenticates, decides and
//! records before it calls a handler. A credential is issued only by [`Engine::issue`], which takes the
//! [`crate::policy::Grant`] that the decision made.

mod answer;
mod declare;
mod in_flight;
mod issue;
mod lockout;
mod login;
mod mounts;
mod panics;
mod passwords;
mod pipeline;
mod plane;
mod policies;
mod process;
mod quota;
mod registry;
mod revoke;
mod system;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unopened;
mod wrap;
mod unsure;
mod versions;
mod withdraw;

pub use answer::{Answer, AuthView, Body, Failure, LeaseView, Request, WrapView};
pub use declare::Declarations;
pub use in_flight::{InFlight, InFlightRequest};
pub use lockout::LockoutLimits;
pub use login::{TOKEN_ACCESSOR, token_method};
pub use mounts::{Mount, MountConfig, MountRecord, Mounts, NewMount};
pub use passwords::Passwords;
pub use plane::{ControlPlane, Engine, Parts, Settings};
pub use policies::Policies;
pub use process::{Process, Reloaded};
pub(crate) use quota::EXEMPT;
pub use quota::{LeaseCount, MOST_LEASES, Quotas, RateLimit, StoredQuotas};
pub use registry::{BackendKind, Class, declarable, kinds};
pub use system::{Serve, SystemCall, SystemHandler, SystemRoutes};
pub use versions::Release;
pub use wrap::Wrapping;
