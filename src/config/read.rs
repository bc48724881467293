//! Reads typed values out of parsed TOML and notes what does not fit.
//!
//! A [`Table`] remembers every name it was asked for, so that the keys it knows are exactly the keys
//! the model reads, and [`Node::table`] reports all others. Reading never stops at a problem: it notes
//! it and answers `None`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daypass_contract::body::nearest;
use daypass_contract::parse_duration;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Place};

/// Longer than any lease or time-out, and short enough to be added to any instant.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The text of one file.
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(file: PathBuf, text: String) -> Self {
        Self { file, text }
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count();
        Place {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
        }
    }
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<ConfigError>>);

impl Problems {
    /// Notes a problem.
    pub(super) fn add(&self, place: Place, key: &str, problem: impl Into<String>) {
        self.add_near(place, key, problem, None);
    }

    /// Notes a problem of a file as a whole.
    pub(super) fn file(&self, file: &Path, problem: impl Into<String>) {
        let place = Place {
            file: file.to_owned(),
            line: 0,
            column: 0,
        };
        self.add(place, "", problem);
    }

    /// Notes a problem that is already put into words.
    pub(super) fn push(&self, error: ConfigError) {
        self.0.borrow_mut().push(error);
    }

    fn add_near(
        &self,
        place: Place,
        key: &str,
        problem: impl Into<String>,
        nearest: Option<String>,
    ) {
        self.push(ConfigError {
            place,
            key: key.to_owned(),
            problem: problem.into(),
            nearest,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All of them; those of one file in the order of its lines.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.0.into_inner();
        errors.sort();
        errors.dedup();
        errors
    }
}

/// Parses a file. Syntax errors are noted; what could be read despite them is not used.
pub(super) fn parse<'a>(source: &'a Source, problems: &Problems) -> Option<DeTable<'a>> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        // Only the message: the error's own Display quotes the line.
        let offset = error.span().map_or(0, |span| span.start);
        problems.add(source.place(offset), "", error.message());
    }
    errors.is_empty().then(|| table.into_inner())
}

/// One value, with where it stands.
#[derive(Clone)]
pub(super) struct Node<'a> {
    source: &'a Source,
    problems: &'a Problems,
    /// The key path from the top of the file.
    pub(super) key: String,
    offset: usize,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Node<'a> {
    pub(super) fn place(&self) -> Place {
        self.source.place(self.offset)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin {
            place: self.place(),
            key: self.key.clone(),
        }
    }

    /// Notes a problem with this value.
    pub(super) fn problem(&self, problem: impl Into<String>) {
        self.problems.add(self.place(), &self.key, problem);
    }

    /// Notes that this value is of the wrong type.
    pub(super) fn expected(&self, what: &str) {
        self.problem(format!("expected {what}, found {}", kind(self.value)));
    }

    /// Resolves a path against the folder of the file it stands in.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.source
            .file
            .parent()
            .unwrap_or(Path::new(""))
            .join(path)
    }

    /// Reads a table, then reports the keys that `read` did not ask for.
    pub(super) fn table<R>(&self, read: impl FnOnce(&Table<'a>) -> R) -> Option<R> {
        let DeValue::Table(entries) = self.value else {
            self.expected("a table");
            return None;
        };
        let table = Table::new(
            self.source,
            self.problems,
            self.key.clone(),
            self.offset,
            entries,
        );
        let value = read(&table);
        table.report_unknown();
        Some(value)
    }

    /// The entries of a table whose keys are names the operator chose, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(String, Node<'a>)> {
        let DeValue::Table(entries) = self.value else {
            self.expected("a table");
            return Vec::new();
        };
        let mut nodes: Vec<(String, Node<'a>)> = entries
            .iter()
            .map(|(name, value)| {
                let node = Node {
                    key: join(&self.key, name.get_ref()),
                    offset: name.span().start,
                    value: value.get_ref(),
                    ..self.clone()
                };
                (name.get_ref().to_string(), node)
            })
            .collect();
        nodes.sort_by_key(|(_, node)| node.offset);
        nodes
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Vec<Node<'a>> {
        let DeValue::Array(elements) = self.value else {
            self.expected("a list");
            return Vec::new();
        };
        elements
            .iter()
            .enumerate()
            .map(|(index, element)| Node {
                key: format!("{}[{index}]", self.key),
                offset: element.span().start,
                value: element.get_ref(),
                ..self.clone()
            })
            .collect()
    }

    /// One of a set of names.
    pub(super) fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Option<T> {
        let expected = || {
            let names: Vec<String> = names
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            names.join(", ")
        };
        let DeValue::String(given) = self.value else {
            self.expected(&format!("one of {}", expected()));
            return None;
        };
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == given.as_ref()) {
            return Some(*value);
        }
        let near = nearest(given, names.iter().map(|(name, _)| *name)).map(str::to_owned);
        let problem = format!("expected one of {}", expected());
        self.problems
            .add_near(self.place(), &self.key, problem, near);
        None
    }

    /// A name among `known`, which the problem does not list.
    pub(super) fn known_name(&self, what: &str, known: &[&str]) -> Option<String> {
        let name = String::read(self)?;
        if known.contains(&name.as_str()) {
            return Some(name);
        }
        let near = nearest(&name, known.iter().copied()).map(str::to_owned);
        let problem = match near {
            Some(_) => format!("there is no such {what}"),
            None => format!("there is no such {what}; known are {}", known.join(", ")),
        };
        self.problems
            .add_near(self.place(), &self.key, problem, near);
        None
    }
}

/// A table being read.
pub(super) struct Table<'a> {
    source: &'a Source,
    problems: &'a Problems,
    key: String,
    offset: usize,
    entries: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// The top of a file.
    pub(super) fn top(
        source: &'a Source,
        problems: &'a Problems,
        entries: &'a DeTable<'a>,
    ) -> Self {
        Self::new(source, problems, String::new(), 0, entries)
    }

    fn new(
        source: &'a Source,
        problems: &'a Problems,
        key: String,
        offset: usize,
        entries: &'a DeTable<'a>,
    ) -> Self {
        Self {
            source,
            problems,
            key,
            offset,
            entries,
            known: RefCell::default(),
        }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin {
            place: self.source.place(self.offset),
            key: self.key.clone(),
        }
    }

    /// Notes a problem with what stands, or should stand, at `name`.
    pub(super) fn problem(&self, name: &str, problem: impl Into<String>) {
        let at = self
            .entries
            .get_key_value(name)
            .map(|(key, _)| key.span().start);
        let place = self.source.place(at.unwrap_or(self.offset));
        self.problems.add(place, &join(&self.key, name), problem);
    }

    /// The value of `name`, which is a known key from now on.
    pub(super) fn node(&self, name: &'static str) -> Option<Node<'a>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&name) {
            known.push(name);
        }
        let (key, value) = self.entries.get_key_value(name)?;
        Some(Node {
            source: self.source,
            problems: self.problems,
            key: join(&self.key, name),
            offset: key.span().start,
            value: value.get_ref(),
        })
    }

    /// The value of `name`, or `None` where it is absent or not valid (which is noted).
    pub(super) fn optional<T: Read>(&self, name: &'static str) -> Option<T> {
        T::read(&self.node(name)?)
    }

    /// The value of `name`; its absence is noted.
    pub(super) fn required<T: Read>(&self, name: &'static str) -> Option<T> {
        T::read(&self.required_node(name)?)
    }

    pub(super) fn required_node(&self, name: &'static str) -> Option<Node<'a>> {
        let node = self.node(name);
        if node.is_none() {
            self.problem(name, "is required");
        }
        node
    }

    /// The value of `name`, or `default`.
    pub(super) fn or<T: Read>(&self, name: &'static str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// Notes every key that was not asked for.
    pub(super) fn report_unknown(&self) {
        let known = self.known.borrow();
        for name in self.entries.keys() {
            let given: &str = name.get_ref();
            if known.contains(&given) {
                continue;
            }
            let near = nearest(given, known.iter().copied()).map(str::to_owned);
            let problem = match near {
                Some(_) => "is not a known key".to_owned(),
                None => format!("is not a known key; known are {}", known.join(", ")),
            };
            let place = self.source.place(name.span().start);
            self.problems
                .add_near(place, &join(&self.key, given), problem, near);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if bare {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// The type of a value, as a person says it.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What can be read from one value.
pub(super) trait Read: Sized {
    /// The value, or `None` after noting why not.
    fn read(node: &Node<'_>) -> Option<Self>;
}

impl Read for String {
    fn read(node: &Node<'_>) -> Option<Self> {
        let DeValue::String(text) = node.value else {
            node.expected("text");
            return None;
        };
        if text.is_empty() {
            node.problem("must not be empty");
            return None;
        }
        Some(text.to_string())
    }
}

/// A path; a relative one is meant from the folder of the file it stands in.
impl Read for PathBuf {
    fn read(node: &Node<'_>) -> Option<Self> {
        String::read(node).map(|path| node.resolve(path))
    }
}

/// Counts and sizes: every one of them is a limit, and a limit of zero serves nobody.
impl Read for u64 {
    fn read(node: &Node<'_>) -> Option<Self> {
        let number = match node.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| *number > 0);
        if number.is_none() {
            node.problem("expected a whole number above zero");
        }
        number
    }
}

impl Read for usize {
    fn read(node: &Node<'_>) -> Option<Self> {
        usize::try_from(u64::read(node)?).ok()
    }
}

impl Read for f64 {
    fn read(node: &Node<'_>) -> Option<Self> {
        let number = match node.value {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        let number = number.filter(|number: &f64| number.is_finite() && *number > 0.0);
        if number.is_none() {
            node.problem("expected a number above zero");
        }
        number
    }
}

impl Read for Duration {
    fn read(node: &Node<'_>) -> Option<Self> {
        let duration = match node.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(Duration::from_secs),
            DeValue::String(text) => parse_duration(text),
            _ => None,
        };
        let Some(duration) = duration else {
            node.problem("expected a duration such as 3600, \"1h30m\" or \"7d\"");
            return None;
        };
        if duration.is_zero() || duration > MAX_DURATION {
            node.problem("expected a duration above zero and of at most 100 years");
            return None;
        }
        Some(duration)
    }
}

impl Read for BTreeMap<String, String> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let entries = node.entries();
        let count = entries.len();
        let map: Self = entries
            .into_iter()
            .filter_map(|(name, node)| Some((name, String::read(&node)?)))
            .collect();
        (map.len() == count).then_some(map)
    }
}
