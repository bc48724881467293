//! Prints answers: as a table, as JSON, or one field.
//!
//! **Invariant:** what a server sends cannot steer the terminal: in a table, control characters are shown as
//! their code. `--field` and JSON give the value as it is.

use std::fmt::Write as _;

use clap::ValueEnum;
use daypass_contract::body::nearest;
use serde_json::Value;

use super::context::Context;
use super::{Code, Failure};
use crate::client::{Answer, Content};

/// How to print an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// The server's answer as it is
    Json,
}

impl Context<'_, '_> {
    /// Prints text as it is.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.print_bytes(text.as_bytes())
    }

    fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.streams.out.write_all(bytes);
        match written.and_then(|()| self.streams.out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Failure::silent(Code::Closed))
            }
            Err(error) => Err(Failure::refused("write the output", error.to_string())),
            Ok(()) => Ok(()),
        }
    }

    /// Prints a body that is not JSON: as it is, but for a terminal only as text that cannot steer it.
    fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.streams.out_is_terminal {
            return self.print_bytes(bytes);
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Err(Failure::refused("show the answer", "it is binary")
                .hint("send it to a file: > FILE"));
        };
        self.print(&format!("{}\n", lines(text).join("\n")))
    }

    /// Tells a person something that is not part of the answer.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.streams.err, "{text}");
    }

    /// Says that something was done, to people only: scripts look at the exit code.
    pub(super) fn done(&mut self, text: &str) -> Result<(), Failure> {
        match (self.format, &self.field) {
            (Format::Table, None) => self.print(&format!("{text}\n")),
            _ => Ok(()),
        }
    }

    /// Prints an answer; `done` says what happened where the server had nothing to add.
    pub(super) fn answer(&mut self, answer: &Answer, done: &str) -> Result<(), Failure> {
        self.warnings(answer);
        match &answer.content {
            Content::Empty if self.field.is_some() => self.value(&Value::Null, &Value::Null),
            Content::Empty => self.done(done),
            Content::Raw(bytes) => self.raw(bytes),
            Content::Json(body) => {
                let fields = fields(body);
                if fields.is_null() && self.field.is_none() && self.format == Format::Table {
                    return self.done(done);
                }
                self.value(fields, body)
            }
        }
    }

    /// Prints `fields`, the part of the answer that people look at; `whole` is what JSON shows.
    pub(super) fn value(&mut self, fields: &Value, whole: &Value) -> Result<(), Failure> {
        if let Some(name) = self.field.clone() {
            return self.one_field(&name, fields, whole);
        }
        if self.format == Format::Json {
            return self.json(whole);
        }
        let mut rows = lease_rows(whole);
        match fields {
            Value::Object(map) => {
                rows.extend(
                    map.iter()
                        .map(|(name, value)| vec![name.clone(), show(value)]),
                );
            }
            other => rows.push(vec!["value".into(), show(other)]),
        }
        self.print(&table(&["Key", "Value"], &rows))
    }

    /// Prints rows; in JSON, `whole`.
    pub(super) fn rows(
        &mut self,
        header: &[&str],
        rows: &[Vec<String>],
        whole: &Value,
    ) -> Result<(), Failure> {
        match (self.format, self.field.clone()) {
            (_, Some(name)) => self.one_field(&name, whole, whole),
            (Format::Json, None) => self.json(whole),
            (Format::Table, None) => self.print(&table(header, rows)),
        }
    }

    /// Prints the `keys` of a list.
    pub(super) fn keys(&mut self, answer: &Answer) -> Result<(), Failure> {
        self.warnings(answer);
        let keys = answer.data().get("keys").unwrap_or(&Value::Null);
        let rows: Vec<Vec<String>> = keys
            .as_array()
            .into_iter()
            .flatten()
            .map(|key| vec![show(key)])
            .collect();
        self.rows(&["Keys"], &rows, keys)
    }

    /// Prints JSON for programs.
    pub(super) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::usage("write JSON", error.to_string()))?;
        self.print(&format!("{text}\n"))
    }

    fn one_field(&mut self, name: &str, fields: &Value, whole: &Value) -> Result<(), Failure> {
        let lease = ["lease_id", "lease_duration", "renewable"];
        let found = fields
            .get(name)
            .or_else(|| lease.contains(&name).then(|| whole.get(name)).flatten());
        let Some(value) = found else {
            let what = format!("print the field \"{name}\"");
            let names: Vec<&str> = fields
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys().map(String::as_str))
                .collect();
            let failure = Failure::refused(what, "the answer has no such field");
            return Err(match nearest(name, names.iter().copied()) {
                Some(near) => failure.hint(format!("did you mean \"{near}\"?")),
                None if names.is_empty() => failure,
                None => failure.hint(format!("it has: {}", names.join(", "))),
            });
        };
        let mut text = match (value, self.format) {
            (Value::String(text), Format::Table) => text.clone(),
            _ => value.to_string(),
        };
        if self.streams.out_is_terminal {
            text.push('\n');
        }
        self.print(&text)
    }

    /// Tells a person what the server warns of.
    pub(super) fn warnings(&mut self, answer: &Answer) {
        let warnings = answer.json().get("warnings").and_then(Value::as_array);
        for warning in warnings.into_iter().flatten() {
            self.note(&format!("warning: {}", show(warning)));
        }
    }
}

/// The part of a body that people look at: `data`, `auth` or `wrap_info`, or all of what has no envelope.
pub(super) fn fields(body: &Value) -> &Value {
    let part = |name: &str| body.get(name).filter(|part| !part.is_null());
    match ["data", "auth", "wrap_info"].into_iter().find_map(part) {
        Some(part) => part,
        None if body.get("request_id").is_some() => &Value::Null,
        None => body,
    }
}

fn lease_rows(body: &Value) -> Vec<Vec<String>> {
    let leased = body
        .get("lease_id")
        .and_then(Value::as_str)
        .is_some_and(|id| !id.is_empty());
    if !leased {
        return Vec::new();
    }
    ["lease_id", "lease_duration", "renewable"]
        .iter()
        .filter_map(|name| Some(vec![(*name).to_owned(), show(body.get(*name)?)]))
        .collect()
}

/// A value in a cell.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "n/a".into(),
        Value::String(text) => text.clone(),
        Value::Array(items)
            if items
                .iter()
                .all(|item| !item.is_array() && !item.is_object()) =>
        {
            let items: Vec<String> = items.iter().map(show).collect();
            items.join(", ")
        }
        other => other.to_string(),
    }
}

/// Columns as wide as their widest cell. A cell of several lines goes on below itself.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells: Vec<Vec<Vec<String>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| lines(cell)).collect())
        .collect();
    let width = |column: usize| {
        let longest = cells
            .iter()
            .filter_map(|row| row.get(column))
            .flatten()
            .map(|line| line.chars().count())
            .max();
        longest
            .unwrap_or(0)
            .max(header.get(column).map_or(0, |name| name.chars().count()))
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}    ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    let rules: Vec<String> = header
        .iter()
        .map(|name| "-".repeat(name.chars().count()))
        .collect();
    line(&mut rules.iter().map(String::as_str));
    for row in &cells {
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for index in 0..height {
            line(
                &mut row
                    .iter()
                    .map(|cell| cell.get(index).map_or("", String::as_str)),
            );
        }
    }
    text
}

fn lines(cell: &str) -> Vec<String> {
    let cell = cell.strip_suffix('\n').unwrap_or(cell);
    cell.split('\n').map(printable).collect()
}

/// The text with control characters as their code, so that it cannot steer the terminal.
fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        // Direction marks can make a line read as something else.
        let steers =
            c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers && c != '\t' {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn tables_line_up_and_cannot_steer_the_terminal() {
        let cases = [
            (vec![], "Key    Value\n---    -----\n"),
            (
                vec![row(&["a", "1"]), row(&["longer", "2"])],
                "Key       Value\n---       -----\na         1\nlonger    2\n",
            ),
            (
                vec![row(&["pem", "one\ntwo\n"]), row(&["b", ""])],
                "Key    Value\n---    -----\npem    one\n       two\nb\n",
            ),
            (
                vec![row(&["é", "\u{1b}[31mred\u{202e}"])],
                "Key    Value\n---    -----\né      \\u{1b}[31mred\\u{202e}\n",
            ),
        ];
        for (rows, want) in cases {
            assert_eq!(table(&["Key", "Value"], &rows), want);
        }
    }

    #[test]
    fn values_in_cells() {
        let cases = [
            (json!(null), "n/a"),
            (json!("a b"), "a b"),
            (json!(3600), "3600"),
            (json!(false), "false"),
            (json!(["a", 1]), "a, 1"),
            (json!([]), ""),
            (json!({"a": 1}), r#"{"a":1}"#),
            (json!([{"a": 1}]), r#"[{"a":1}]"#),
        ];
        for (value, want) in cases {
            assert_eq!(show(&value), want, "{value}");
        }
    }

    #[test]
    fn people_look_at_the_inside_of_the_envelope() {
        let cases = [
            (
                json!({"request_id": "r", "data": {"a": 1}, "auth": null}),
                json!({"a": 1}),
            ),
            (
                json!({"request_id": "r", "data": null, "auth": {"b": 1}}),
                json!({"b": 1}),
            ),
            (
                json!({"request_id": "r", "data": null, "auth": null, "wrap_info": {"token": "t"}}),
                json!({"token": "t"}),
            ),
            (
                json!({"request_id": "r", "data": null, "auth": null}),
                json!(null),
            ),
            (json!({"sealed": false}), json!({"sealed": false})),
        ];
        for (body, want) in cases {
            assert_eq!(fields(&body), &want);
        }
    }
}
