//! `k=v` arguments, as the fields of a request.
//!
//! Values stay text, as the Vault API takes them: what a number or a list is, the backend knows.

use daypass_contract::Secret;
use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::Failure;
use super::context::Context;

/// What the help of every command with `k=v` arguments says about them.
pub(super) const HELP: &str = "\
Fields: k=v (text), k=@FILE (the content of a file), k=- (standard input), @FILE.json (an object of fields, also
- for standard input). A value that begins with @ is written k=\\@v. A field given twice becomes a list.
Secrets belong into files or standard input: arguments can be read by every process of the machine.";

impl Context<'_, '_> {
    /// Reads `k=v` arguments.
    pub(super) fn fields(&mut self, arguments: &[String]) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        let mut input_used = false;
        for argument in arguments {
            let mut once = |source: &str| {
                let again = source == "-" && std::mem::replace(&mut input_used, true);
                if again {
                    return Err(Failure::usage(
                        "read standard input twice",
                        "only one field can take it",
                    ));
                }
                Ok(())
            };
            match parse(argument)? {
                Field::Object(source) => {
                    once(source)?;
                    let object = object(source, &self.read_file(source)?)?;
                    for (name, value) in object {
                        add(&mut fields, name, value);
                    }
                }
                Field::Text(name, value) => add(&mut fields, name.to_owned(), Value::from(value)),
                Field::Content(name, source) => {
                    once(source)?;
                    let text = self.read_text(source)?;
                    add(&mut fields, name.to_owned(), Value::from(text));
                }
            }
        }
        Ok(fields)
    }

    /// Reads `k=v` arguments for a query, where only text has a place.
    pub(super) fn query(&mut self, arguments: &[String]) -> Result<Vec<(String, String)>, Failure> {
        let fields = self.fields(arguments)?;
        Ok(fields
            .into_iter()
            .map(|(name, value)| (name, super::output::show(&value)))
            .collect())
    }
}

/// Whether the argument gives this field as text, where every process of the machine can read it.
pub(super) fn shows(argument: &str, name: &str) -> bool {
    matches!(parse(argument), Ok(Field::Text(field, value)) if field == name && !value.is_empty())
}

/// One argument.
#[derive(Debug, PartialEq, Eq)]
enum Field<'a> {
    /// `k=v`.
    Text(&'a str, &'a str),
    /// `k=@FILE`, `k=-`.
    Content(&'a str, &'a str),
    /// `@FILE`, `-`.
    Object(&'a str),
}

fn parse(argument: &str) -> Result<Field<'_>, Failure> {
    if argument == "-" {
        return Ok(Field::Object("-"));
    }
    let field = match argument.split_once('=') {
        None => argument.strip_prefix('@').map(Field::Object),
        Some(("", _)) => None,
        Some((name, "-")) => Some(Field::Content(name, "-")),
        Some((name, value)) => Some(match (value.strip_prefix('@'), value.strip_prefix("\\@")) {
            (Some(file), _) => Field::Content(name, file),
            (None, Some(_)) => Field::Text(name, value.strip_prefix('\\').unwrap_or(value)),
            (None, None) => Field::Text(name, value),
        }),
    };
    // The argument may be a secret whose name was forgotten: it is not shown.
    field.ok_or_else(|| {
        Failure::usage("read the fields", "an argument is not of the form k=v")
            .hint("k=v, k=@FILE, k=- or @FILE.json")
    })
}

fn object(source: &str, content: &Secret) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(content.expose()).map_err(|error| {
        // serde's own message quotes what it found.
        let (line, column) = (error.line(), error.column());
        Failure::usage(
            format!("read fields from {source}"),
            format!("it is not a JSON object (line {line}, column {column})"),
        )
    })
}

fn add(fields: &mut Map<String, Value>, name: String, value: Value) {
    match fields.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(value);
        }
        Entry::Occupied(mut entry) => match entry.get_mut() {
            Value::Array(items) => items.push(value),
            first => *first = Value::Array(vec![first.take(), value]),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::with_context;
    use super::*;

    #[test]
    fn arguments_become_fields() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (text, object) = (
            file("text", "line\n"),
            file("o.json", r#"{"n": 1, "l": ["a"]}"#),
        );
        let cases: Vec<(Vec<String>, &str, Value)> = vec![
            (vec![], "", json!({})),
            (
                vec!["a=1".into(), "b=true".into(), "c=".into()],
                "",
                json!({"a": "1", "b": "true", "c": ""}),
            ),
            (
                vec!["url=https://h/?a=b".into()],
                "",
                json!({"url": "https://h/?a=b"}),
            ),
            (vec![format!("a=@{text}")], "", json!({"a": "line\n"})),
            (vec!["a=-".into()], "piped", json!({"a": "piped"})),
            (vec!["a=-1".into()], "", json!({"a": "-1"})),
            (
                vec!["a=\\@handle".into(), "b=\\n".into()],
                "",
                json!({"a": "@handle", "b": "\\n"}),
            ),
            (
                vec![format!("@{object}"), "b=2".into()],
                "",
                json!({"n": 1, "l": ["a"], "b": "2"}),
            ),
            (
                vec!["-".into()],
                r#"{"a": {"b": 1}}"#,
                json!({"a": {"b": 1}}),
            ),
            (
                vec!["p=a".into(), "p=b".into(), "p=c".into()],
                "",
                json!({"p": ["a", "b", "c"]}),
            ),
        ];
        for (arguments, input, want) in cases {
            let got = with_context(input, |context| context.fields(&arguments)).unwrap();
            assert_eq!(Value::Object(got), want, "{arguments:?}");
        }
    }

    #[test]
    fn what_is_no_field_is_refused_without_being_shown() {
        let cases = [
            (vec!["CANARY"], "", "not of the form k=v"),
            (vec!["=CANARY"], "", "not of the form k=v"),
            (vec!["a=-", "b=-"], "CANARY", "only one field"),
            (vec!["-"], "[\"CANARY\"]", "not a JSON object"),
            (vec!["-"], "{\"a\": CANARY}", "not a JSON object"),
            (
                vec!["a=@/no/such/file"],
                "",
                "read /no/such/file: No such file",
            ),
            (vec!["a=@/dev/zero"], "", "larger than"),
        ];
        for (arguments, input, want) in cases {
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            let error = with_context(input, |context| context.fields(&arguments)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(want), "{arguments:?}: {text}");
            assert!(!text.contains("CANARY"), "{text}");
            assert_eq!(error.code(), 1);
        }
    }
}
