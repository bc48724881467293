//! `docs/api.md`: what of the Vault API is there, operation by operation, made from the OpenAPI document
//! of a running server and from `testdata/vault-api.txt`. Why something is absent stands in
//! `testdata/vault-api-notes.toml`; the test fails where nothing stands there, and where what is said to
//! be absent answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::authorization::{compare, server};
use crate::http::Client;
use crate::tools;

/// `(method, path with its parameters as "{}")`.
type Operation = (String, String);

/// The path with its parameters' names left out.
fn shape(path: &str) -> String {
    let segments = path.trim_matches('/').split('/');
    let nameless = segments.map(|segment| match segment.find('{') {
        Some(_) => "{}",
        None => segment,
    });
    nameless.collect::<Vec<_>>().join("/")
}

/// What the server says that it answers to.
fn answered(document: &Value) -> BTreeMap<Operation, String> {
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            let listing = |one: &&Value| one["name"] == "list" && one["required"] == true;
            let parameters = described["parameters"].as_array().into_iter().flatten();
            let only_lists = parameters.clone().any(|one| listing(&one));
            let summary = described["summary"].as_str().unwrap_or_default();
            if only_lists || described["x-daypass-list"].is_string() {
                let summary = described["x-daypass-list"].as_str().unwrap_or(summary);
                found.insert(("list".into(), shape(path)), summary.to_owned());
            }
            if !only_lists {
                found.insert((method.clone(), shape(path)), summary.to_owned());
            }
        }
    }
    found
}

/// The operations of the Vault API, each with its path as it is written there.
fn reference() -> Vec<(Operation, String)> {
    let text = fs::read_to_string(tools::root("testdata/vault-api.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(|line| {
            let (methods, path) = line.split_once(' ').unwrap();
            methods
                .split(',')
                .map(|method| ((method.to_owned(), shape(path)), path.to_owned()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Reasons by path or by the beginning of one, which ends in `*`; "post path" for one operation.
struct Notes(BTreeMap<String, String>);

impl Notes {
    fn read(section: &str) -> Self {
        let text = fs::read_to_string(tools::root("testdata/vault-api-notes.toml")).unwrap();
        let notes: toml::Table = text.parse().unwrap();
        let section = notes[section].as_table().unwrap();
        let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
        Self(
            section
                .iter()
                .map(|(key, value)| (key.clone(), text(value)))
                .collect(),
        )
    }

    /// The most exact note about an operation, and its key.
    fn about(&self, method: &str, path: &str) -> Option<(&str, &str)> {
        let with_method = format!("{method} {path}");
        let fits = |key: &str| match key.strip_suffix('*') {
            Some(start) => path.starts_with(start) || with_method.starts_with(start),
            None => key == path || key == with_method,
        };
        let fitting = self.0.iter().filter(|(key, _)| fits(key));
        let best = fitting.max_by_key(|(key, _)| (!key.ends_with('*'), key.len()))?;
        Some((best.0, best.1))
    }
}

/// The area of the API that a path belongs to.
fn area(path: &str) -> String {
    let depth = if path.starts_with("auth/") { 2 } else { 1 };
    path.split('/').take(depth).collect::<Vec<_>>().join("/")
}

fn row(table: &mut String, method: &str, path: &str, what: &str) {
    writeln!(table, "| {} | `{path}` | {what} |", method.to_uppercase()).unwrap();
}

#[test]
fn the_document_of_the_api_says_what_is_there_and_what_is_not() {
    let server = server();
    let document = server.anyone().read("sys/internal/specs/openapi").body;
    let mut answered = answered(&document);
    let (absent, partly) = (Notes::read("absent"), Notes::read("partly"));
    let mut used = BTreeSet::new();
    let mut areas: BTreeMap<String, [String; 3]> = BTreeMap::new();
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut unexplained = Vec::new();
    let mut missing = Vec::new();
    for ((method, shape), path) in reference() {
        let tables = areas.entry(area(&path)).or_default();
        let count = counts.entry(area(&path)).or_default();
        let there = answered.remove(&(method.clone(), shape));
        let (kind, what) = match (
            &there,
            partly.about(&method, &path),
            absent.about(&method, &path),
        ) {
            (Some(_), Some((key, note)), _) => {
                used.insert(key.to_owned());
                (1, note.to_owned())
            }
            (Some(summary), None, _) => (0, summary.clone()),
            (None, _, Some((key, reason))) => {
                used.insert(key.to_owned());
                missing.push((method.clone(), path.clone()));
                (2, reason.to_owned())
            }
            (None, _, None) => {
                unexplained.push(format!("{method} {path}"));
                continue;
            }
        };
        count[kind] += 1;
        row(&mut tables[kind], &method, &path, &what);
    }
    assert!(
        unexplained.is_empty(),
        "absent without a reason: {unexplained:#?}"
    );
    let every: BTreeSet<String> = absent.0.into_keys().chain(partly.0.into_keys()).collect();
    let idle: Vec<&String> = every.difference(&used).collect();
    assert!(idle.is_empty(), "notes about nothing: {idle:#?}");
    compare("docs/api.md", &page(&areas, &counts, &answered));
    for (method, path) in missing {
        refused(&server.root(), &method, &path);
    }
}

/// **An unimplemented thing is absent:** it answers so, to whoever may do everything.
fn refused(root: &Client, method: &str, path: &str) {
    let filled = shape(path).replace("{}", "x");
    let method = method.to_uppercase();
    let body = matches!(method.as_str(), "POST" | "PATCH").then(|| json!({}));
    let answer = root.call(&method, &filled, body.as_ref());
    // 400: another endpoint's parameter stands where the absent one has a word of its own.
    assert!(
        matches!(answer.status, 400 | 404 | 405 | 501),
        "{method} {path} is said to be absent, and answers {}: {}",
        answer.status,
        answer.body
    );
}

fn page(
    areas: &BTreeMap<String, [String; 3]>,
    counts: &BTreeMap<String, [usize; 3]>,
    own: &BTreeMap<Operation, String>,
) -> String {
    let mut page = String::from(
        "# What of the Vault API is there\n\n\
         Made by `integration/api_table.rs` from the OpenAPI document of a running server, the list of the Vault API's\n\
         operations in `testdata/vault-api.txt` and the notes in `testdata/vault-api-notes.toml`. Mounts stand at the path of\n\
         their type; where they are mounted elsewhere, the path changes with them. What is absent answers 404, 405 or 501 with\n\
         a reason, never an empty success.\n\n\
         | area | there | partly | absent |\n|---|---:|---:|---:|\n",
    );
    let mut total = [0; 3];
    for (area, count) in counts {
        writeln!(
            page,
            "| [{area}](#{}) | {} | {} | {} |",
            area.replace('/', ""),
            count[0],
            count[1],
            count[2]
        )
        .unwrap();
        for (sum, one) in total.iter_mut().zip(count) {
            *sum += one;
        }
    }
    writeln!(page, "| all | {} | {} | {} |", total[0], total[1], total[2]).unwrap();
    for (area, tables) in areas {
        writeln!(page, "\n## {area}").unwrap();
        for (name, table) in ["There", "Partly", "Absent"].iter().zip(tables) {
            if !table.is_empty() {
                writeln!(page, "\n### {name}\n\n| | path | |\n|---|---|---|").unwrap();
                page.push_str(table);
            }
        }
    }
    page.push_str("\n## Beside the Vault API\n\n| | path | |\n|---|---|---|\n");
    for ((method, path), summary) in own {
        row(&mut page, method, path, summary);
    }
    page
}
