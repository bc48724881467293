//! The authenticated caller of one request.

use std::sync::Arc;

use super::token::{TokenId, TokenKind};
use super::tokens::TokenRecord;

/// Who makes this request: the token presented and what it stands for.
#[derive(Clone)]
pub struct Principal {
    /// The token's id; none where the token is stateless.
    pub token: Option<TokenId>,
    /// What the token says.
    pub record: Arc<TokenRecord>,
}

impl Principal {
    /// Service or batch.
    pub fn kind(&self) -> TokenKind {
        if self.token.is_some() {
            TokenKind::Service
        } else {
            TokenKind::Batch
        }
    }

    /// Whether a root token made the request.
    pub fn is_root(&self) -> bool {
        self.record.policies.iter().any(|policy| policy == "root")
    }

    /// The token that leases of this request hang on: its own, or of a stateless one its parent.
    pub fn anchor(&self) -> Option<&TokenId> {
        self.token.as_ref().or(self.record.parent.as_ref())
    }
}
