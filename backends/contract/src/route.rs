//! What a mount answers to: path patterns, operations and typed handlers, declared once.
//!
//! Routing, policy paths, help, warnings about unknown fields and the OpenAPI document all follow
//! from a [`Routes`] table. The control plane declares `sys/` and `auth/token/` in the same form, so
//! that one pipeline serves everything.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

/// What a request asks a path to do. `POST` and `PUT` are [`Operation::Write`]; whether that needs the
/// `create` or the `update` capability depends on whether the target exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// `GET`, `HEAD`.
    Read,
    /// `LIST`, or `GET` with `list=true`.
    List,
    /// `POST`, `PUT`.
    Write,
    /// `PATCH` with a JSON merge patch (RFC 7396).
    Patch,
    /// `DELETE`.
    Delete,
}

/// What serving the request does to the world; the audit log is written accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing changes: one record before the answer.
    Observe,
    /// Something changes: a durable record before, another with the outcome after.
    Change,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A principal whose policies grant the operation on the path.
    Policy,
    /// The same, with the `sudo` capability besides.
    Sudo,
    /// Anyone: health, login, a CA's certificate and CRL.
    Anyone,
}

/// How a success is written, for the OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Under `data` of the Vault API's envelope.
    Envelope,
    /// As JSON without an envelope.
    Bare,
    /// As JSON without an envelope, with a status that tells something too.
    Status,
    /// As bytes of this media type.
    Bytes(&'static str),
}

/// One operation on one path pattern.
pub struct Endpoint<H> {
    /// The path below the mount.
    pub pattern: Pattern,
    /// What it does there.
    pub operation: Operation,
    /// One sentence for help and OpenAPI, in the third person: "Reads a role."
    pub summary: &'static str,
    /// See [`Effect`].
    pub effect: Effect,
    /// See [`Access`].
    pub access: Access,
    /// See [`Form`].
    pub form: Form,
    /// The JSON schema of the request fields, path parameters included.
    pub request: fn() -> Schema,
    /// The JSON schema of the answer's `data`.
    pub response: fn() -> Schema,
    /// What serves it.
    pub handler: H,
    /// The fields of `request`, or `None` where it takes any; worked out when first asked for.
    known_fields: OnceLock<Option<BTreeSet<String>>>,
}

impl<H> fmt::Debug for Endpoint<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.operation, self.pattern)
    }
}

/// What a path gives for the parameters of a pattern, in order.
pub type Parameters = Vec<(&'static str, String)>;

/// Everything a mount answers to.
pub struct Routes<H> {
    endpoints: Vec<Endpoint<H>>,
}

impl<H> Default for Routes<H> {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
        }
    }
}

/// What a path and an operation lead to.
pub enum Found<'a, H> {
    /// This endpoint, with the parameters of the path.
    Endpoint(&'a Endpoint<H>, Parameters),
    /// The path exists, but only for these other operations.
    OtherOperations(Vec<Operation>),
    /// No pattern matches.
    Nothing,
}

impl<H> Routes<H> {
    /// Adds one operation on `pattern`, which policy guards and which changes something unless it
    /// only reads or lists. [`Routes::last`] adjusts that.
    pub fn add<Request: JsonSchema, Response: JsonSchema>(
        &mut self,
        operation: Operation,
        pattern: &'static str,
        summary: &'static str,
        handler: H,
    ) -> &mut Endpoint<H> {
        let effect = match operation {
            Operation::Read | Operation::List => Effect::Observe,
            Operation::Write | Operation::Patch | Operation::Delete => Effect::Change,
        };
        let index = self.endpoints.len();
        self.endpoints.push(Endpoint {
            pattern: Pattern::parse(pattern),
            operation,
            summary,
            effect,
            access: Access::Policy,
            form: Form::Envelope,
            request: request_schema::<Request>,
            response: response_schema::<Response>,
            handler,
            known_fields: OnceLock::new(),
        });
        #[expect(clippy::indexing_slicing, reason = "the element was pushed above")]
        &mut self.endpoints[index]
    }

    /// Every endpoint, in the order of declaration.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint<H>> {
        self.endpoints.iter()
    }

    /// Finds what serves `operation` on `path` (no leading `/`). Of several patterns that match, the
    /// one with more literal segments wins.
    pub fn find(&self, operation: Operation, path: &str) -> Found<'_, H> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut best: Option<(usize, &Endpoint<H>, Parameters)> = None;
        let mut others = Vec::new();
        for endpoint in &self.endpoints {
            let Some(parameters) = endpoint.pattern.matches(path, endpoint.operation) else {
                continue;
            };
            if endpoint.operation != operation {
                others.push(endpoint.operation);
                continue;
            }
            let literals = endpoint.pattern.literals();
            if best.as_ref().is_none_or(|(most, _, _)| literals > *most) {
                best = Some((literals, endpoint, parameters));
            }
        }
        match best {
            Some((_, endpoint, parameters)) => Found::Endpoint(endpoint, parameters),
            None if others.is_empty() => Found::Nothing,
            None => {
                others.sort_unstable();
                others.dedup();
                Found::OtherOperations(others)
            }
        }
    }
}

impl<H> Endpoint<H> {
    /// Says how a success is written, where it is not in the envelope.
    pub fn written(&mut self, form: Form) -> &mut Self {
        self.form = form;
        self
    }

    /// Names of body fields that the request type does not declare, for a warning.
    pub fn unknown_fields<'a>(&self, given: impl Iterator<Item = &'a String>) -> Vec<String> {
        let known = self.known_fields.get_or_init(|| {
            let schema = (self.request)();
            let open = schema
                .get("additionalProperties")
                .is_some_and(|value| value != &Value::Bool(false));
            let properties = schema.get("properties").and_then(Value::as_object)?;
            (!open).then(|| properties.keys().cloned().collect())
        });
        match known {
            Some(known) => given
                .filter(|name| !known.contains(name.as_str()))
                .cloned()
                .collect(),
            None => Vec::new(),
        }
    }
}

fn request_schema<T: JsonSchema>() -> Schema {
    schema_of::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

fn response_schema<T: JsonSchema>() -> Schema {
    schema_of::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn schema_of<T: JsonSchema>(mut settings: SchemaSettings) -> Schema {
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}

/// A path pattern: literal segments, `{name}` for one segment, and `{name*}` for all the rest (at least
/// one segment, or none where the operation is a list), which only literals may follow.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: &'static str,
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    One(&'static str),
    Rest(&'static str),
}

impl Pattern {
    fn parse(text: &'static str) -> Self {
        let segments = text
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(
                |segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                    Some(name) => name
                        .strip_suffix('*')
                        .map_or(Segment::One(name), Segment::Rest),
                    None => Segment::Literal(segment),
                },
            )
            .collect();
        Self { text, segments }
    }

    /// As it was declared.
    pub fn as_str(&self) -> &'static str {
        self.text
    }

    /// The parameters' names, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::One(name) | Segment::Rest(name) => Some(*name),
        })
    }

    fn literals(&self) -> usize {
        self.segments
            .iter()
            .filter(|segment| matches!(segment, Segment::Literal(_)))
            .count()
    }

    fn matches(&self, path: &str, operation: Operation) -> Option<Parameters> {
        let mut parameters = Vec::new();
        let mut rest = Some(path).filter(|path| !path.is_empty());
        let mut segments = self.segments.iter();
        while let Some(segment) = segments.next() {
            if let Segment::Rest(name) = segment {
                for last in segments.rev() {
                    let Segment::Literal(last) = last else {
                        return None;
                    };
                    rest = Some(rest?.strip_suffix(last)?.strip_suffix('/')?);
                }
                if rest.is_none_or(str::is_empty) && operation != Operation::List {
                    return None;
                }
                parameters.push((*name, rest.unwrap_or_default().to_owned()));
                return Some(parameters);
            }
            let (head, tail) = match rest?.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (rest?, None),
            };
            match segment {
                Segment::Literal(literal) if *literal == head => {}
                Segment::One(name) if !head.is_empty() => parameters.push((*name, head.to_owned())),
                _ => return None,
            }
            rest = tail;
        }
        rest.is_none().then_some(parameters)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Routes<&'static str> {
        let mut routes = Routes::default();
        routes.add::<(), ()>(Operation::Read, "config", "Reads.", "config");
        routes.add::<(), ()>(Operation::List, "roles", "Lists.", "roles");
        routes.add::<(), ()>(Operation::Read, "roles/{name}", "Reads.", "role");
        routes.add::<(), ()>(Operation::Write, "roles/{name}", "Writes.", "write role");
        routes.add::<(), ()>(Operation::Read, "data/{path*}", "Reads.", "data");
        routes.add::<(), ()>(Operation::List, "data/{path*}", "Lists.", "list data");
        routes.add::<(), ()>(Operation::Read, "cert/{serial}", "Reads.", "cert");
        routes.add::<(), ()>(Operation::Read, "cert/ca", "Reads.", "ca");
        routes.add::<(), ()>(Operation::Read, "mounts/{path*}", "Reads.", "mount");
        routes.add::<(), ()>(Operation::Read, "mounts/{path*}/tune", "Reads.", "tune");
        routes
    }

    #[test]
    fn a_path_leads_to_the_most_literal_pattern() {
        use Operation::{Delete, List, Read, Write};
        let routes = table();
        let cases = [
            (Read, "config", "config []"),
            (List, "roles", "roles []"),
            (List, "roles/", "roles []"),
            (Read, "roles/a", "role [(\"name\", \"a\")]"),
            (Write, "roles/a", "write role [(\"name\", \"a\")]"),
            (Read, "roles/a/b", "nothing"),
            (Read, "data/a/b", "data [(\"path\", \"a/b\")]"),
            (Read, "data", "others [List]"),
            (List, "data", "list data [(\"path\", \"\")]"),
            (Read, "cert/ca", "ca []"),
            (Read, "cert/0a", "cert [(\"serial\", \"0a\")]"),
            (Delete, "roles/a", "others [Read, Write]"),
            (Read, "mounts/a/b", "mount [(\"path\", \"a/b\")]"),
            (Read, "mounts/a/tune", "tune [(\"path\", \"a\")]"),
            (Read, "mounts/a/b/tune/", "tune [(\"path\", \"a/b\")]"),
            (Read, "mounts/tune", "mount [(\"path\", \"tune\")]"),
            (Read, "mounts/fortune", "mount [(\"path\", \"fortune\")]"),
            (Read, "", "nothing"),
            (Read, "data//", "others [List]"),
        ];
        for (operation, path, want) in cases {
            let got = match routes.find(operation, path) {
                Found::Endpoint(endpoint, parameters) => {
                    format!("{} {parameters:?}", endpoint.handler)
                }
                Found::OtherOperations(others) => format!("others {others:?}"),
                Found::Nothing => "nothing".into(),
            };
            assert_eq!(got, want, "{operation:?} {path}");
        }
    }
}
