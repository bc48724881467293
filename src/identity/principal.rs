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
    /// The policies that its entity and the groups of that have at present.
    identity_policies: Vec<String>,
    /// These and the token's own, sorted, each once; empty where there are only the token's own.
    merged: Vec<String>,
}

impl Principal {
    /// A principal with the policies of its token alone.
    pub fn new(token: Option<TokenId>, record: Arc<TokenRecord>) -> Self {
        Self {
            token,
            record,
            identity_policies: Vec::new(),
            merged: Vec::new(),
        }
    }

    /// The same with the policies that its entity and the groups of that have at present.
    #[must_use]
    pub fn with_identity(mut self, policies: &[String]) -> Self {
        self.identity_policies = policies.to_vec();
        self.merged.clear();
        if !policies.is_empty() {
            self.merged.extend_from_slice(&self.record.policies);
            self.merged.extend_from_slice(policies);
            self.merged.sort_unstable();
            self.merged.dedup();
        }
        self
    }

    /// All of its policies, sorted, each once.
    pub fn policies(&self) -> &[String] {
        if self.merged.is_empty() {
            &self.record.policies
        } else {
            &self.merged
        }
    }

    /// Those of its entity and the groups of that.
    pub fn identity_policies(&self) -> &[String] {
        &self.identity_policies
    }

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
