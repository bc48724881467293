//! The policies that are always there, and the rules about names.

use std::sync::Arc;

use super::rule::Policy;

/// Grants everything. Its rules cannot be read, written or deleted.
pub const ROOT: &str = "root";

/// Attached to every token that does not refuse it; may be rewritten, not deleted.
pub const DEFAULT: &str = "default";

/// Attached to a wrapping token and to nothing else.
pub const RESPONSE_WRAPPING: &str = "response-wrapping";

/// The longest name a policy may have.
pub const MAX_NAME_BYTES: usize = 256;

/// The text of [`DEFAULT`] until someone rewrites it.
pub const DEFAULT_TEXT: &str = r#"# A token looks up, renews and revokes itself.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# A token asks what it may do.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}

# A token renews and looks up leases whose id it knows. The first path is that of old clients.
path "sys/renew" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# A token has a cubbyhole of its own.
path "cubbyhole/*" {
  capabilities = ["create", "read", "update", "delete", "list"]
}

# A token wraps, looks up and unwraps answers.
path "sys/wrapping/wrap" {
  capabilities = ["update"]
}
path "sys/wrapping/lookup" {
  capabilities = ["update"]
}
path "sys/wrapping/unwrap" {
  capabilities = ["update"]
}

# Tools that hold no secret.
path "sys/tools/hash" {
  capabilities = ["update"]
}
path "sys/tools/hash/*" {
  capabilities = ["update"]
}

# A token asks how its approval requests stand.
path "sys/control-group/request" {
  capabilities = ["update"]
}

# A token uses the authorization endpoint of an OIDC provider.
path "identity/oidc/provider/+/authorize" {
  capabilities = ["read", "update"]
}
"#;

/// The text of [`RESPONSE_WRAPPING`].
pub const RESPONSE_WRAPPING_TEXT: &str = r#"path "cubbyhole/response" {
  capabilities = ["create", "read"]
}
path "sys/wrapping/unwrap" {
  capabilities = ["update"]
}
"#;

/// The policy [`ROOT`].
pub fn root() -> Policy {
    Policy {
        name: Arc::from(ROOT),
        text: String::new(),
        rules: Vec::new(),
        root: true,
    }
}

/// Why a policy of that name cannot be written, deleted or attached. Answered 400; the text is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no name, or one with control characters.
    #[error("policy name must be text without control characters")]
    Malformed,
    /// It is too long.
    #[error("policy name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// It is fixed.
    #[error("cannot update \"{0}\" policy")]
    NotWritable(String),
    /// It is always there.
    #[error("cannot delete \"{0}\" policy")]
    NotDeletable(String),
    /// It is attached by the server itself.
    #[error("cannot attach \"{0}\" policy")]
    NotAttachable(String),
}

/// The name as it is stored and compared: lower case, without white space around it.
///
/// # Errors
/// [`NameError::Malformed`], [`NameError::TooLong`].
pub fn name(name: &str) -> Result<String, NameError> {
    let name = name.trim().to_lowercase();
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong);
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(NameError::Malformed);
    }
    Ok(name)
}

/// The name of a policy that a caller may write.
///
/// # Errors
/// [`NameError`] where it is not a name or that of a fixed policy.
pub fn writable_name(given: &str) -> Result<String, NameError> {
    match name(given)? {
        name if name == ROOT || name == RESPONSE_WRAPPING => Err(NameError::NotWritable(name)),
        name => Ok(name),
    }
}

/// The name of a policy that a caller may delete.
///
/// # Errors
/// [`NameError`] where it is not a name or that of a policy which is always there.
pub fn deletable_name(given: &str) -> Result<String, NameError> {
    match name(given)? {
        name if [ROOT, DEFAULT, RESPONSE_WRAPPING].contains(&name.as_str()) => {
            Err(NameError::NotDeletable(name))
        }
        name => Ok(name),
    }
}

/// The name of a policy that a caller may attach to a token or a role.
///
/// # Errors
/// [`NameError`] where it is not a name or that of a policy which only the server attaches.
pub fn attachable_name(given: &str) -> Result<String, NameError> {
    match name(given)? {
        name if name == RESPONSE_WRAPPING => Err(NameError::NotAttachable(name)),
        name => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_texts_are_policies() {
        assert_eq!(
            Policy::parse(DEFAULT, DEFAULT_TEXT).unwrap().rules().len(),
            16
        );
        let wrapping = Policy::parse(RESPONSE_WRAPPING, RESPONSE_WRAPPING_TEXT).unwrap();
        assert_eq!(wrapping.rules().len(), 2);
        assert!(root().is_root() && !wrapping.is_root());
    }

    #[test]
    fn names_are_lower_case_and_some_are_taken() {
        assert_eq!(name(" Team-A "), Ok("team-a".into()));
        assert_eq!(name(" \n"), Err(NameError::Malformed));
        assert_eq!(name("a\u{0}b"), Err(NameError::Malformed));
        assert_eq!(name(&"a".repeat(257)), Err(NameError::TooLong));
        let cases = [
            // name               write  delete attach
            ("team", true, true, true),
            ("DEFAULT", true, false, true),
            (" Root", false, false, true),
            ("response-wrapping", false, false, false),
        ];
        for (name, write, delete, attach) in cases {
            assert_eq!(writable_name(name).is_ok(), write, "{name}");
            assert_eq!(deletable_name(name).is_ok(), delete, "{name}");
            assert_eq!(attachable_name(name).is_ok(), attach, "{name}");
        }
        let text = deletable_name("Default").unwrap_err().to_string();
        assert_eq!(text, "cannot delete \"default\" policy");
    }
}
