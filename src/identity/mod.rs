//! Who asks: tokens, accessors and principals; entities, their aliases and groups.
//!
//! **Invariant:** a token's text is never stored. A record holds a keyed hash of it, found under an id
//! that the token carries in clear; knowing every record is not enough to make one request.

mod aliases;
mod batch;
mod check;
mod entities;
mod groups;
mod login;
mod oidc;
mod principal;
mod private;
mod roles;
mod record;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod tokens;

pub use aliases::AliasPatch;
pub use entities::{EntityPatch, Merge, Which};
pub use groups::{GroupAliasPatch, GroupPatch};
pub use login::{AliasClaim, LoginMount};
pub use oidc::{Algorithm, IdToken, KeyPatch, KeySettings, Oidc, OidcRole, RolePatch};
pub use principal::Principal;
pub use private::Shelf;
pub use record::{Alias, Entity, Group, GroupAlias, GroupKind};
pub use roles::TokenRole;
pub use standing::{Standing, StandingGroup};
pub use store::{Identity, IdentityError, Written};
pub use token::{Accessor, TokenId, TokenKind, TokenText};
pub use tokens::{NewToken, Origin, Removal, Spent, TokenError, TokenRecord, Tokens, Validity};
