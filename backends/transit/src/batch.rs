//! [`Outcomes`]: what came of the elements of a batch, each one by itself.

use daypass_contract::BackendError;

use crate::wire::{Answer, BatchResult};

/// The most elements a batch may have.
const MOST: usize = 10_000;

/// After so many elements, other requests get their turn.
const TURN: usize = 8;

/// What came of the elements so far.
pub(crate) struct Outcomes<V>(Vec<BatchResult<V>>);

impl<V> Outcomes<V> {
    /// For a batch of so many elements.
    pub(crate) fn of(elements: usize) -> Result<Self, BackendError> {
        let refuse = |problem: String| Err(BackendError::field("batch_input", problem));
        match elements {
            0 => refuse("missing batch input to process".into()),
            elements if elements > MOST => refuse(format!("at most {MOST} elements")),
            elements => Ok(Self(Vec::with_capacity(elements))),
        }
    }

    /// Adds what came of the next element. An error that is the element's own stays with it; any other
    /// ends the batch.
    pub(crate) async fn add(
        &mut self,
        outcome: Result<V, BackendError>,
        reference: &str,
    ) -> Result<(), BackendError> {
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(BackendError::InvalidRequest(text)) => (None, Some(text)),
            Err(error) => return Err(error),
        };
        self.0.push(BatchResult {
            result,
            error,
            reference: reference.to_owned(),
        });
        if self.0.len().is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The answer, also where elements failed.
    pub(crate) fn answer(self) -> Answer<V> {
        Answer::Batch {
            batch_results: self.0,
        }
    }

    /// The answer; where elements failed, only if `code` says that this is a success.
    ///
    /// The Vault API answers the results of a partly failed batch with 400. A backend has no such answer:
    /// without consent the request fails, and the error names the element.
    pub(crate) fn answer_or_fail(self, code: Option<u16>) -> Result<Answer<V>, BackendError> {
        if code.is_some_and(|code| (200..300).contains(&code)) {
            return Ok(self.answer());
        }
        let failed = self.0.iter().enumerate();
        let mut failed = failed.filter_map(|(at, one)| Some((at, one.error.as_ref()?)));
        match failed.next() {
            None => Ok(self.answer()),
            Some((at, text)) => Err(BackendError::InvalidRequest(format!(
                "batch_input[{at}]: {text}; with partial_failure_response_code 200 the others are answered"
            ))),
        }
    }
}
