//! What names, metadata and policies may look like.

use std::collections::BTreeMap;

use super::store::IdentityError;

const LONGEST_NAME: usize = 512;
const MOST_PAIRS: usize = 64;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 512;

/// A name that was given; `""` counts as none.
pub(super) fn name(given: Option<String>) -> Result<Option<String>, IdentityError> {
    let Some(name) = given.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(IdentityError::invalid(format!(
            "field \"name\": must be at most {LONGEST_NAME} bytes without control characters"
        )));
    }
    Ok(Some(name))
}

pub(super) fn metadata(field: &str, given: &BTreeMap<String, String>) -> Result<(), IdentityError> {
    let refuse = |problem: String| {
        Err(IdentityError::invalid(format!(
            "field \"{field}\": {problem}"
        )))
    };
    if given.len() > MOST_PAIRS {
        return refuse(format!(
            "cannot contain more than {MOST_PAIRS} key/value pairs"
        ));
    }
    for (key, value) in given {
        if key.trim().is_empty() {
            return refuse("key cannot be blank".into());
        }
        if key.len() > LONGEST_KEY || key.chars().any(char::is_control) {
            return refuse(format!(
                "a key must be at most {LONGEST_KEY} bytes without control characters"
            ));
        }
        if value.len() > LONGEST_VALUE {
            return refuse(format!("a value must be at most {LONGEST_VALUE} bytes"));
        }
    }
    Ok(())
}

/// Names of policies as they are kept: sorted, each once, in lower case.
pub(super) fn policies(given: Vec<String>) -> Result<Vec<String>, IdentityError> {
    let mut policies: Vec<String> = given
        .iter()
        .map(|name| name.trim().to_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    policies.sort_unstable();
    policies.dedup();
    if policies.iter().any(|name| name == "root") {
        return Err(IdentityError::invalid("policies cannot contain root"));
    }
    Ok(policies)
}
