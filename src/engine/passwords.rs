//! Password policies by name: how backends make the passwords they issue.

use std::sync::Arc;

use daypass_contract::{Batch, Entropy, Secret};

use super::answer::Failure;
use crate::policy::{PasswordPolicy, builtin};
use crate::storage::Barrier;

const PREFIX: &str = "policy/password/";
/// Names that a list gives at most.
const MOST_NAMES: usize = 10_000;

/// The password policies of one server.
#[derive(Clone)]
pub struct Passwords {
    barrier: Arc<Barrier>,
    entropy: Arc<dyn Entropy>,
}

impl Passwords {
    /// Opens the store.
    pub fn open(barrier: Arc<Barrier>, entropy: Arc<dyn Entropy>) -> Self {
        Self { barrier, entropy }
    }

    /// All names in order.
    pub async fn names(&self) -> Result<Vec<String>, Failure> {
        Ok(self.barrier.list(PREFIX, None, MOST_NAMES).await?)
    }

    /// The text of a policy.
    pub async fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        let entry = self.barrier.get(&key(name)?).await?;
        Ok(entry.and_then(|entry| entry.value.expose_str().map(str::to_owned)))
    }

    /// Writes a policy that can be kept.
    pub async fn put(&self, name: &str, text: &str) -> Result<(), Failure> {
        PasswordPolicy::parse(text).map_err(|error| Failure::Invalid(error.to_string()))?;
        self.barrier
            .apply(Batch::new().put(key(name)?, Secret::new(text)))
            .await?;
        Ok(())
    }

    /// Deletes a policy; no error where there is none.
    pub async fn delete(&self, name: &str) -> Result<(), Failure> {
        self.barrier.apply(Batch::new().delete(key(name)?)).await?;
        Ok(())
    }

    /// A password by the policy of that name, or `None` where there is no such policy.
    pub async fn generate(&self, name: &str) -> Result<Option<Secret>, Failure> {
        let Some(text) = self.text(name).await? else {
            return Ok(None);
        };
        let policy = PasswordPolicy::parse(&text)
            .map_err(|error| Failure::Internal(format!("password policy \"{name}\": {error}")))?;
        Ok(Some(policy.generate(&*self.entropy)))
    }
}

fn key(name: &str) -> Result<String, Failure> {
    let name = builtin::name(name).map_err(|error| Failure::Invalid(error.to_string()))?;
    if name.contains('/') {
        return Err(Failure::Invalid(
            "field \"name\": must not contain \"/\"".into(),
        ));
    }
    Ok(format!("{PREFIX}{name}"))
}
