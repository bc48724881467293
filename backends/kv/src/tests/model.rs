//! kv v2 against a model: a random sequence of requests, some of them meeting a disk that fails.

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_conformance::Kind;
use daypass_contract::{BackendError, Operation};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::mount;

#[derive(Clone, Debug)]
enum Step {
    Write { value: u8, cas: Option<u64> },
    Patch { value: u8 },
    DeleteLatest,
    Delete(Vec<u64>),
    Undelete(Vec<u64>),
    Destroy(Vec<u64>),
    MaxVersions(u64),
    DeleteMetadata,
}

/// Each with the number of batches after which the disk fails during the step, if it does.
fn steps() -> impl Strategy<Value = Vec<(Step, Option<usize>)>> {
    let versions = || prop::collection::vec(1..12_u64, 1..4);
    let step = prop_oneof![
        6 => (any::<u8>(), prop::option::of(0..6_u64))
            .prop_map(|(value, cas)| Step::Write { value, cas: cas.filter(|cas| *cas < 5) }),
        3 => any::<u8>().prop_map(|value| Step::Patch { value }),
        2 => Just(Step::DeleteLatest),
        2 => versions().prop_map(Step::Delete),
        2 => versions().prop_map(Step::Undelete),
        2 => versions().prop_map(Step::Destroy),
        2 => (0..4_u64).prop_map(Step::MaxVersions),
        1 => Just(Step::DeleteMetadata),
    ];
    let fails = prop::option::weighted(0.3, 0..2_usize);
    prop::collection::vec((step, fails), 1..40)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Live,
    Deleted,
    Destroyed,
}

/// One key, in the simplest form that says what should be read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    exists: bool,
    max: u64,
    latest: u64,
    pruned: u64,
    versions: BTreeMap<u64, (State, Value)>,
}

impl Model {
    /// Whether the step succeeds.
    fn apply(&mut self, step: &Step) -> bool {
        match step {
            Step::Write { value, cas } => {
                if cas.is_some_and(|cas| cas != self.latest) {
                    return false;
                }
                self.add(json!({"v": value}));
            }
            Step::Patch { value } => match self.versions.get(&self.latest) {
                Some((State::Live, current)) => {
                    let mut next = current.clone();
                    next[format!("p{}", value % 3)] = json!(value);
                    self.add(next);
                }
                _ => return false,
            },
            Step::DeleteLatest => self.each(&[self.latest], State::Live, State::Deleted),
            Step::Delete(versions) => self.each(versions, State::Live, State::Deleted),
            Step::Undelete(versions) => self.each(versions, State::Deleted, State::Live),
            Step::Destroy(versions) => {
                self.each(versions, State::Live, State::Destroyed);
                self.each(versions, State::Deleted, State::Destroyed);
            }
            Step::MaxVersions(max) => {
                self.exists = true;
                self.max = *max;
            }
            Step::DeleteMetadata => *self = Self::default(),
        }
        true
    }

    fn add(&mut self, value: Value) {
        self.exists = true;
        self.latest += 1;
        self.versions.insert(self.latest, (State::Live, value));
        let most = if self.max == 0 { 10 } else { self.max };
        self.pruned = self.pruned.max(self.latest.saturating_sub(most));
        self.versions.retain(|number, _| *number > self.pruned);
    }

    fn each(&mut self, numbers: &[u64], from: State, to: State) {
        for number in numbers {
            if let Some((state, _)) = self.versions.get_mut(number).filter(|(s, _)| *s == from) {
                *state = to;
            }
        }
    }
}

fn request(step: &Step) -> (Operation, &'static str, Value) {
    let write = Operation::Write;
    match step {
        Step::Write { value, cas } => {
            let options = cas.map_or(json!({}), |cas| json!({"cas": cas}));
            let body = json!({"data": {"v": value}, "options": options});
            (write, "data/dir/key", body)
        }
        Step::Patch { value } => {
            let change = json!({format!("p{}", value % 3): value});
            (Operation::Patch, "data/dir/key", json!({"data": change}))
        }
        Step::DeleteLatest => (Operation::Delete, "data/dir/key", Value::Null),
        Step::Delete(versions) => (write, "delete/dir/key", json!({"versions": versions})),
        Step::Undelete(versions) => (write, "undelete/dir/key", json!({"versions": versions})),
        Step::Destroy(versions) => (write, "destroy/dir/key", json!({"versions": versions})),
        Step::MaxVersions(max) => (write, "metadata/dir/key", json!({"max_versions": max})),
        Step::DeleteMetadata => (Operation::Delete, "metadata/dir/key", Value::Null),
    }
}

async fn check(steps: Vec<(Step, Option<usize>)>) {
    let (host, kv) = mount("2").await;
    let mut model = Model::default();
    for (step, fails) in steps {
        host.clock.advance(Duration::from_secs(1));
        if let Some(batches) = fails {
            host.store.fail_after(batches);
        }
        let keys = host.store.keys();
        let (operation, path, body) = request(&step);
        let outcome = kv.request(operation, path, body).await;
        let done = match &outcome {
            Ok(answer) => answer.kind != Kind::Absent,
            Err(_) => false,
        };
        host.store.heal();
        if matches!(outcome, Err(BackendError::Store(_))) {
            assert_eq!(fails, Some(0), "{step:?} takes more than one batch");
            assert_eq!(host.store.keys(), keys, "{step:?} left something");
        } else {
            let mut after = model.clone();
            assert_eq!(after.apply(&step), done, "{step:?} on {model:?}");
            assert!(
                fails != Some(0) || after == model,
                "{step:?} on a dead disk"
            );
            model = after;
        }

        for number in 0..=model.latest + 1 {
            let read = kv
                .read_with("data/dir/key", json!({"version": number}))
                .await;
            let wanted = if number == 0 { model.latest } else { number };
            match (read, model.versions.get(&wanted)) {
                (Ok(answer), Some((State::Live, value))) => {
                    assert_eq!((answer.kind, &answer["data"]), (Kind::Data, value));
                }
                (Ok(answer), Some((state, _))) => {
                    assert_eq!((answer.kind, &answer["data"]), (Kind::Absent, &Value::Null));
                    let destroyed = *state == State::Destroyed;
                    assert_eq!(answer["metadata"]["destroyed"], destroyed);
                }
                (Err(BackendError::NotFound), None) => {}
                (read, want) => panic!("version {number}: {read:?}, not {want:?}"),
            }
        }
        let stored = model.versions.values();
        let stored = stored
            .filter(|(state, _)| *state != State::Destroyed)
            .count();
        let records = usize::from(model.exists) + stored;
        assert_eq!(host.store.keys().len(), records, "{:?}", host.store.keys());
        assert_eq!(kv.list("metadata/dir").await.is_ok(), model.exists);
    }
}

proptest! {
    #[test]
    fn kv_v2_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps));
    }
}
