//! Who asks: tokens, accessors and principals.
//!
//! **Invariant:** a token's text is never stored. A record holds a keyed hash of it, found under an id
//! that the token carries in clear; knowing every record is not enough to make one request.

mod batch;
mod principal;
mod private;
mod roles;
mod token;
mod tokens;

pub use principal::Principal;
pub use private::Shelf;
pub use roles::TokenRole;
pub use token::{Accessor, TokenId, TokenKind, TokenText};
pub use tokens::{NewToken, Origin, Removal, Spent, TokenError, TokenRecord, Tokens, Validity};
