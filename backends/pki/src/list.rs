//! Lists with an end.

use daypass_contract::{BackendError, Keys, Reply};

/// Most names in one answer where the caller sets no limit.
pub(crate) const MOST: usize = 100_000;

/// Answers names that were listed with [`MOST`] or a caller's own limit.
pub(crate) fn reply(keys: Vec<String>, limit: Option<usize>) -> Result<Reply<Keys>, BackendError> {
    let cut_off = limit.is_none() && keys.len() >= MOST;
    let reply = Reply::keys(keys)?;
    Ok(if cut_off {
        reply.warn("there may be more: ask again with \"after\" set to the last name")
    } else {
        reply
    })
}
