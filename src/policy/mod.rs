//! Rules that grant, and the decisions made from them.
//!
//! Text becomes a [`Policy`] (`hcl` the syntax, `parse` the meaning, `rule` the result), the policies of a
//! principal become an [`Acl`] when one of them changes, and [`decide`] asks it about each request. All of it
//! is pure: no store, no clock, no I/O. `docs/policies.md` is the same from the writer's side.
//!
//! # Invariants
//!
//! * **No credential without a decision.** Only [`decide`] and [`decide_public`] make a [`Grant`].
//! * **Deny wins** where the rule that counts for a path says so, for every verb and with or without a trailing
//!   slash; see `acl`.
//! * **Nothing that a policy says is dropped.** What we do not understand, we refuse to load.

mod acl;
pub mod builtin;
mod decision;
mod hcl;
#[cfg(test)]
mod matrix;
mod parameters;
mod parse;
mod password;
mod rule;

pub use self::acl::{Acl, capabilities};
pub use self::decision::{Ask, Denial, Grant, Reason, decide, decide_public};
pub use self::hcl::{MAX_TEXT_BYTES, ParseError};
pub use self::password::PasswordPolicy;
pub use self::rule::{Capabilities, Capability, Parameters, Pattern, Policy, Rule};
