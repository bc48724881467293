//! The contract between the engine and whatever issues credentials.
//!
//! Everything under `backends/` depends on this crate and on nothing else in the workspace (`pki` also
//! on `certs`). Nothing here names HTTP, policy, or a storage engine.
//!
//! # Invariants
//!
//! * **Lease first.** The engine makes [`Plan::handle`] durable before it calls [`Plan::issue`], so a
//!   crash can strand a lease record but never a credential.
//! * **Access travels only in [`Secret`].** A handle or an error that could grant access is a bug; the
//!   conformance suite looks for one.
//! * **Time and randomness are arguments.** A backend asks [`Host::clock`] and [`Host::entropy`].

mod backend;
pub mod body;
mod error;
mod login;
pub mod route;
mod secret;
mod store;
mod time;

pub use async_trait::async_trait;

pub use crate::backend::{
    Backend, BackendRoutes, BoxFuture, Call, Caller, Claims, Content, Credential, Handle, Handler,
    Host, Json, Keys, ListRequest, LoginHandler, NoFields, Plan, Planned, Presence, Reply,
    Revocability, Revocation, System, Terms, TtlWish, Untyped,
};
pub use crate::body::{Body, BodyError};
pub use crate::error::{BackendError, Source};
pub use crate::login::{
    Alias, Cidr, Login, Peer, TokenFields, TokenParameters, TokenType, WithToken,
};
pub use crate::route::{Access, Effect, Operation};
pub use crate::secret::{Secret, reveal};
pub use crate::store::{Batch, Entry, Revision, Store, StoreError, Write};
pub use crate::time::{Clock, Entropy, duration, millis, parse_duration};
