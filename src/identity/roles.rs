//! Token roles: templates by which callers create tokens that they could not create otherwise.

use daypass_certs::glob;
use daypass_contract::{Batch, TokenParameters};
use serde::{Deserialize, Serialize};

use super::tokens::{TokenError, Tokens};

const PREFIX: &str = "token/role/";
/// Roles listed at most.
const MOST_ROLES: usize = 10_000;

/// What a token role says.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct TokenRole {
    /// Policies that may be asked for; given where none are asked for.
    pub allowed_policies: Vec<String>,
    /// Policies that may not.
    pub disallowed_policies: Vec<String>,
    /// Patterns with `*` of policies that may be asked for.
    pub allowed_policies_glob: Vec<String>,
    /// Patterns with `*` of policies that may not.
    pub disallowed_policies_glob: Vec<String>,
    /// Its tokens have no parent.
    pub orphan: bool,
    /// Its tokens can be renewed.
    pub renewable: bool,
    /// Put after the path of its tokens, to revoke them by prefix.
    pub path_suffix: String,
    /// Aliases that a token may be asked to stand for.
    pub allowed_entity_aliases: Vec<String>,
    /// What else its tokens are like.
    #[serde(flatten)]
    pub token: TokenParameters,
}

impl TokenRole {
    /// Whether the role has a say in which policies are asked for.
    pub fn limits_policies(&self) -> bool {
        let lists = [
            &self.allowed_policies,
            &self.disallowed_policies,
            &self.allowed_policies_glob,
            &self.disallowed_policies_glob,
        ];
        lists.iter().any(|list| !list.is_empty())
    }

    /// Whether a policy may be asked for. What is disallowed is, whatever else is allowed.
    pub fn allows(&self, policy: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern, policy));
        if self.forbids(policy) {
            return false;
        }
        let unlimited = self.allowed_policies.is_empty() && self.allowed_policies_glob.is_empty();
        unlimited
            || self.allowed_policies.iter().any(|name| name == policy)
            || any(&self.allowed_policies_glob)
    }

    /// Whether a token may be asked to stand for an alias, which is in lower case.
    pub fn allows_alias(&self, alias: &str) -> bool {
        self.allowed_entity_aliases
            .iter()
            .any(|pattern| glob(pattern, alias))
    }

    /// Whether a policy is disallowed.
    pub fn forbids(&self, policy: &str) -> bool {
        self.disallowed_policies.iter().any(|name| name == policy)
            || self
                .disallowed_policies_glob
                .iter()
                .any(|pattern| glob(pattern, policy))
    }
}

impl Tokens {
    /// The role of that name.
    pub async fn role(&self, name: &str) -> Result<Option<TokenRole>, TokenError> {
        let entry = self.barrier.get(&format!("{PREFIX}{name}")).await?;
        let role = entry.map(|entry| serde_json::from_slice(entry.value.expose()));
        role.transpose()
            .map_err(|_| TokenError::Broken("token role"))
    }

    /// Writes a role.
    pub async fn put_role(&self, name: &str, role: &TokenRole) -> Result<(), TokenError> {
        let batch = Batch::new()
            .put_json(format!("{PREFIX}{name}"), role)
            .map_err(|_| TokenError::Broken("token role"))?;
        Ok(self.barrier.apply(batch).await.map(drop)?)
    }

    /// Deletes a role; its tokens live on but cannot be renewed.
    pub async fn delete_role(&self, name: &str) -> Result<(), TokenError> {
        let batch = Batch::new().delete(format!("{PREFIX}{name}"));
        Ok(self.barrier.apply(batch).await.map(drop)?)
    }

    /// The names of all roles.
    pub async fn roles(&self) -> Result<Vec<String>, TokenError> {
        let keys = self.barrier.keys(PREFIX, None, MOST_ROLES).await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix(PREFIX))
            .map(str::to_owned)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_disallowed_is_so_whatever_is_allowed() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let role = TokenRole {
            allowed_policies: names(&["dev", "ops"]),
            allowed_policies_glob: names(&["team-*"]),
            disallowed_policies: names(&["ops"]),
            disallowed_policies_glob: names(&["*-admin"]),
            ..TokenRole::default()
        };
        let cases = [
            ("dev", true),
            ("ops", false),
            ("team-a", true),
            ("team-admin", false),
            ("other", false),
        ];
        for (policy, want) in cases {
            assert_eq!(role.allows(policy), want, "{policy}");
        }
        let open = TokenRole {
            disallowed_policies: names(&["ops"]),
            ..TokenRole::default()
        };
        assert!(open.allows("any") && !open.allows("ops") && open.limits_policies());
        assert!(!TokenRole::default().limits_policies());
    }
}
