//! `sys/internal/counters/*`: how many tokens and entities there are.

use daypass_contract::{NoFields, Operation};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

/// Counting ends here: each one is a name read from storage.
const MOST: usize = 1_000_000;

#[derive(Serialize, JsonSchema)]
struct Counters {
    /// By what is counted, `{"total": N}`.
    counters: Value,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    routes.serve::<NoFields, Counters, _, _>(
        Operation::Read,
        "sys/internal/counters/tokens",
        "Counts the service tokens there are.",
        |call, _| async move {
            let count = call.engine()?.tokens.ids(None, MOST).await?.len();
            counted("service_tokens", count)
        },
    );
    routes.serve::<NoFields, Counters, _, _>(
        Operation::Read,
        "sys/internal/counters/entities",
        "Counts the entities there are.",
        entities,
    );
}

async fn entities(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    counted("entities", engine.identity.entity_names(MOST).await?.len())
}

fn counted(what: &str, count: usize) -> Result<Answer, Failure> {
    let answer = Answer::data(&Counters {
        counters: json!({ what: { "total": count } }),
    })?;
    Ok(if count == MOST {
        answer.warn(format!("there are more than {MOST}: counting ended there"))
    } else {
        answer
    })
}
