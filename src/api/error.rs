//! What a caller is told of a failure.

use crate::engine::Failure;

/// The texts of `{"errors": […]}`.
///
/// An empty read has no text: that is how clients of the Vault API tell it from a path that does not
/// exist. What the server did wrong is in its log, under the request's id, and not in the answer.
pub(super) fn errors(failure: &Failure) -> Vec<String> {
    match failure {
        Failure::NotFound => Vec::new(),
        Failure::Internal(_) => vec!["internal error; see the server's log".to_owned()],
        Failure::Denied => vec!["permission denied".to_owned()],
        other => vec![other.to_string()],
    }
}
