//! Changing some fields of a stored record.

use daypass_contract::{BackendError, Body};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `stored` with the fields that `body` gives; `null` restores a field's default.
pub(crate) fn merged<T: Serialize + DeserializeOwned>(
    stored: &T,
    body: &Body,
) -> Result<T, BackendError> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(stored) else {
        return Err(BackendError::Internal("record is not an object".into()));
    };
    for (name, value) in body.fields() {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    Ok(Body::new(fields).decode()?)
}
