//! The syntax of policies: HCL as Vault reads it (version 1 of the language), and JSON.
//!
//! Vault policies are HCL 1, which newer HCL parsers refuse in places that occur in practice: quoted
//! keys, several attributes on one line, `key { … }` for `key = { … }`. JSON is nearly a dialect of it
//! (`:` for `=`), so one parser reads both into one tree, in which `path "a" { … }`,
//! `path = { "a" = { … } }` and `{"path": {"a": { … }}}` are the same.
//!
//! **Invariants:** nothing panics on any input; nesting is bounded by [`MAX_DEPTH`] and text by
//! [`MAX_TEXT_BYTES`]; every node knows where it stands, so that every complaint has a line and a column.

use std::fmt;

use serde_json::Number;

/// The longest policy text that is read.
pub const MAX_TEXT_BYTES: usize = 512 * 1024;

/// How deep blocks and lists may nest; a policy needs five levels.
const MAX_DEPTH: usize = 16;

/// Why a text is not a policy, and where. Shown to whoever wrote the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong and how to put it right.
    pub problem: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            problem,
        } = self;
        write!(f, "line {line}, column {column}: {problem}")
    }
}

/// A byte offset into the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(usize);

impl At {
    /// The beginning.
    pub(super) const START: Self = Self(0);

    /// The error that `problem` here makes.
    pub(super) fn error(self, text: &str, problem: impl Into<String>) -> ParseError {
        let before = text.get(..self.0).unwrap_or(text);
        let last_line = before.rsplit('\n').next().unwrap_or_default();
        ParseError {
            line: before.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
            problem: problem.into(),
        }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// What HCL and JSON have in common. There is no null: no policy has a use for it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Item>),
}

/// `key = value`, or `key { … }`. An object may hold a key more than once.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) at: At,
    pub(super) key: String,
    pub(super) node: Node,
}

impl Node {
    /// The objects that this is: one, or each of a list, as converters to JSON write blocks.
    pub(super) fn objects(&self) -> Option<Vec<&[Item]>> {
        match &self.value {
            Value::Object(items) => Some(vec![items]),
            Value::List(nodes) => nodes
                .iter()
                .map(|node| match &node.value {
                    Value::Object(items) => Some(items.as_slice()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// The elements, where this is a list.
    pub(super) fn elements(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(nodes) => Some(nodes),
            _ => None,
        }
    }

    /// The text, where this is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a text, which is JSON where it begins with `{`.
///
/// # Errors
/// [`ParseError`] where it is neither HCL nor JSON, too long, or too deep.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, ParseError> {
    let mut parser = Parser { text, rest: text };
    if text.len() > MAX_TEXT_BYTES {
        return Err(parser.error(format!("longer than {MAX_TEXT_BYTES} bytes")));
    }
    parser.blank()?;
    let items = if parser.eat('{') {
        let items = parser.items(Some('}'), 0)?;
        parser.blank()?;
        items
    } else {
        parser.items(None, 0)?
    };
    match parser.peek() {
        None => Ok(items),
        Some(_) => Err(parser.error("expected the end of the text")),
    }
}

/// A cursor. `rest` is always a suffix of `text`.
struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn at(&self) -> At {
        At(self.text.len() - self.rest.len())
    }

    fn error(&self, problem: impl Into<String>) -> ParseError {
        self.at().error(self.text, problem)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn eat(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or(("", self.rest));
        self.rest = rest;
        taken
    }

    /// Passes over white space and comments.
    fn blank(&mut self) -> Result<(), ParseError> {
        loop {
            self.take_while(|c| c.is_ascii_whitespace() || c == '\u{feff}');
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                let Some((_, rest)) = comment.split_once("*/") else {
                    return Err(self.error("comment does not end"));
                };
                self.rest = rest;
            } else {
                return Ok(());
            }
        }
    }

    /// Items up to and including `end`, or up to the end of the text.
    fn items(&mut self, end: Option<char>, depth: usize) -> Result<Vec<Item>, ParseError> {
        let mut items = Vec::new();
        loop {
            self.blank()?;
            match self.peek() {
                None if end.is_none() => return Ok(items),
                None => return Err(self.error("block does not end: expected \"}\"")),
                next if next == end => {
                    self.next();
                    return Ok(items);
                }
                Some(_) => items.push(self.item(depth)?),
            }
            self.blank()?;
            self.eat(',');
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, ParseError> {
        let (at, key) = self.name("expected a name")?;
        let mut labels = Vec::new();
        let mut node = loop {
            self.blank()?;
            let at = self.at();
            let inside = self.deeper(at, depth + labels.len())?;
            if self.eat('{') {
                let value = Value::Object(self.items(Some('}'), inside)?);
                break Node { at, value };
            }
            if labels.is_empty() && (self.eat('=') || self.eat(':')) {
                self.blank()?;
                break self.value(depth)?;
            }
            let expected = if labels.is_empty() {
                "expected \"=\" or \"{\""
            } else {
                "expected \"{\""
            };
            labels.push(self.name(expected)?);
        };
        // `a "b" { … }` is `a = { "b" = { … } }`.
        for (at, key) in labels.into_iter().rev() {
            let value = Value::Object(vec![Item { at, key, node }]);
            node = Node { at, value };
        }
        Ok(Item { at, key, node })
    }

    fn name(&mut self, expected: &str) -> Result<(At, String), ParseError> {
        let at = self.at();
        if self.eat('"') {
            return Ok((at, self.quoted()?));
        }
        if self.peek().is_some_and(|c| c.is_alphabetic() || c == '_') {
            return Ok((at, self.identifier().to_owned()));
        }
        Err(self.error(expected))
    }

    fn value(&mut self, depth: usize) -> Result<Node, ParseError> {
        let at = self.at();
        let value = match self.peek() {
            Some('"') => {
                self.next();
                self.quoted().map(Value::Text)
            }
            Some('{') => {
                self.next();
                let depth = self.deeper(at, depth)?;
                self.items(Some('}'), depth).map(Value::Object)
            }
            Some('[') => {
                self.next();
                let depth = self.deeper(at, depth)?;
                self.list(depth).map(Value::List)
            }
            Some('<') => self.heredoc().map(Value::Text),
            Some(c) if c.is_ascii_digit() || c == '-' => self.number(),
            _ => match self.identifier() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(at.error(
                    self.text,
                    "expected a value: \"text\", a number, true, false, [list] or {object}",
                )),
            },
        };
        value.map(|value| Node { at, value })
    }

    fn deeper(&self, at: At, depth: usize) -> Result<usize, ParseError> {
        if depth < MAX_DEPTH {
            return Ok(depth + 1);
        }
        Err(at.error(self.text, format!("nested deeper than {MAX_DEPTH} levels")))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ParseError> {
        let mut nodes = Vec::new();
        loop {
            self.blank()?;
            if self.eat(']') {
                return Ok(nodes);
            }
            nodes.push(self.value(depth)?);
            self.blank()?;
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.error("expected \",\" or \"]\""));
            }
        }
    }

    fn identifier(&mut self) -> &'a str {
        self.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
    }

    fn number(&mut self) -> Result<Value, ParseError> {
        let at = self.at();
        let word =
            self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_'));
        // JSON's grammar has neither octal nor hexadecimal, which nobody means in a policy.
        serde_json::from_str(word)
            .map(Value::Number)
            .map_err(|_| at.error(self.text, "expected a decimal number"))
    }

    /// A string, whose opening quote has been read.
    fn quoted(&mut self) -> Result<String, ParseError> {
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n')));
            match self.peek() {
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('\\') => text.push(self.escape()?),
                _ => return Err(self.error("text does not end: expected '\"'")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let at = self.at();
        self.next();
        let character = match self.next() {
            Some(c @ ('"' | '\\' | '/')) => Some(c),
            Some('a') => Some('\u{7}'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\u{b}'),
            Some('x') => self.hex(2).and_then(char::from_u32),
            Some('U') => self.hex(8).and_then(char::from_u32),
            Some('u') => match self.hex(4) {
                // JSON writes a character beyond the first plane as two.
                Some(high @ 0xd800..=0xdbff) if self.rest.starts_with("\\u") => {
                    self.next();
                    self.next();
                    self.hex(4)
                        .filter(|low| (0xdc00..=0xdfff).contains(low))
                        .and_then(|low| {
                            char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                        })
                }
                code => code.and_then(char::from_u32),
            },
            _ => None,
        };
        character.ok_or_else(|| at.error(self.text, "unknown escape: write \\\\ for a backslash"))
    }

    fn hex(&mut self, digits: usize) -> Option<u32> {
        let (word, rest) = self.rest.split_at_checked(digits)?;
        if !word.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = rest;
        u32::from_str_radix(word, 16).ok()
    }

    /// `<<EOF` up to a line that holds `EOF` alone; `<<-EOF` takes away the indentation that all lines share.
    fn heredoc(&mut self) -> Result<String, ParseError> {
        let at = self.at();
        let broken = |problem: &str| at.error(self.text, problem);
        let opened = self
            .rest
            .strip_prefix("<<")
            .ok_or_else(|| broken("expected a value"))?;
        let (anchor, body) = opened
            .split_once('\n')
            .ok_or_else(|| broken("heredoc does not end"))?;
        let (indented, anchor) = match anchor.trim_end().strip_prefix('-') {
            Some(anchor) => (true, anchor),
            None => (false, anchor.trim_end()),
        };
        if anchor.is_empty() || !anchor.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(broken("heredoc needs a name, such as <<EOF"));
        }
        let mut lines = Vec::new();
        let mut rest = body;
        loop {
            if rest.is_empty() {
                return Err(broken("heredoc does not end"));
            }
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            if line.trim() == anchor {
                // The line's own end stays: nothing that follows may depend on it.
                self.rest = after;
                break;
            }
            lines.push(line);
            rest = after;
        }
        let margin = if indented {
            let filled = lines.iter().filter(|line| !line.trim().is_empty());
            let margins =
                filled.map(|line| line.len() - line.trim_start_matches([' ', '\t']).len());
            margins.min().unwrap_or(0)
        } else {
            0
        };
        let mut text = String::new();
        for line in lines {
            text.push_str(line.get(margin..).unwrap_or_default());
            text.push('\n');
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree as JSON text, for comparison; repeated keys stay repeated.
    fn show(items: &[Item]) -> String {
        let items: Vec<_> = items
            .iter()
            .map(|item| format!("{}={}", item.key, show_value(&item.node.value)))
            .collect();
        format!("{{{}}}", items.join(" "))
    }

    fn show_value(value: &Value) -> String {
        match value {
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::Text(value) => format!("{value:?}"),
            Value::List(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| show_value(&node.value)).collect();
                format!("[{}]", nodes.join(" "))
            }
            Value::Object(items) => show(items),
        }
    }

    #[test]
    fn one_tree_for_every_way_of_writing_it() {
        let cases = [
            ("", "{}"),
            ("a = 1", "{a=1}"),
            ("a = 1 b = -2.5, c = true", "{a=1 b=-2.5 c=true}"),
            ("\"a\" = [1, \"x\", [true],]", "{a=[1 \"x\" [true]]}"),
            ("path \"s/*\" { c = [] }", "{path={s/*={c=[]}}}"),
            ("path \"s/*\" {\n c = []\n}\n", "{path={s/*={c=[]}}}"),
            ("path = { \"s/*\" = { c = [] } }", "{path={s/*={c=[]}}}"),
            ("{\"path\": {\"s/*\": {\"c\": []}}}", "{path={s/*={c=[]}}}"),
            (" {\"a\": 1e2} ", "{a=100.0}"),
            ("a {} a {}", "{a={} a={}}"),
            ("a.b-c_1 = 1", "{a.b-c_1=1}"),
            ("# x\n// y\n/* z\n */ a = # w\n 1", "{a=1}"),
            (
                r#"a = "q\"\\\n\t\/\x41\u00e9\U0001F511\ud83d\udd11${b}""#,
                "{a=\"q\\\"\\\\\\n\\t/Aé🔑🔑${b}\"}",
            ),
            ("a = <<EOF\n x\ny\nEOF\nb = 1", "{a=\" x\\ny\\n\" b=1}"),
            ("a = <<-E\n    x\n      y\n  E", "{a=\"x\\n  y\\n\"}"),
            ("a = <<E\r\nx\r\nE\r\n", "{a=\"x\\r\\n\"}"),
        ];
        for (text, want) in cases {
            assert_eq!(
                parse(text).map(|items| show(&items)).as_deref(),
                Ok(want),
                "{text}"
            );
        }
    }

    #[test]
    fn a_complaint_has_a_line_and_a_column() {
        let deep = format!("a = {}", "[".repeat(1_000_000 / 4));
        let labels = "a ".repeat(100_000);
        let cases = [
            ("a", "line 1, column 2: expected \"=\" or \"{\""),
            (
                "a = ",
                "line 1, column 5: expected a value: \"text\", a number, true, false, [list] or {object}",
            ),
            (
                "a = nope",
                "line 1, column 5: expected a value: \"text\", a number, true, false, [list] or {object}",
            ),
            ("a = 012", "line 1, column 5: expected a decimal number"),
            ("a = 0x1f", "line 1, column 5: expected a decimal number"),
            ("a = 1e999", "line 1, column 5: expected a decimal number"),
            ("\n  é \"b\" = 1", "line 2, column 9: expected \"{\""),
            (
                "a {\n b = 1\n",
                "line 3, column 1: block does not end: expected \"}\"",
            ),
            ("a = [1 2]", "line 1, column 8: expected \",\" or \"]\""),
            (
                "a = \"b\nc\"",
                "line 1, column 7: text does not end: expected '\"'",
            ),
            (
                "a = \"\\q\"",
                "line 1, column 6: unknown escape: write \\\\ for a backslash",
            ),
            (
                "a = \"\\ud83d\"",
                "line 1, column 6: unknown escape: write \\\\ for a backslash",
            ),
            ("/* a", "line 1, column 1: comment does not end"),
            ("a = <<E\nx\n", "line 1, column 5: heredoc does not end"),
            (
                "a = <<\nx\n",
                "line 1, column 5: heredoc needs a name, such as <<EOF",
            ),
            ("} a = 1", "line 1, column 1: expected a name"),
            ("{} a = 1", "line 1, column 4: expected the end of the text"),
            (&deep, "line 1, column 21: nested deeper than 16 levels"),
            (&labels, "line 1, column 35: nested deeper than 16 levels"),
        ];
        for (text, want) in cases {
            let error = parse(text).map(|items| show(&items)).unwrap_err();
            assert_eq!(
                error.to_string(),
                want,
                "{}",
                text.get(..40).unwrap_or(text)
            );
        }
        let long = " ".repeat(MAX_TEXT_BYTES + 1);
        assert_eq!(
            parse(&long).unwrap_err().problem,
            "longer than 524288 bytes"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r#"([a-c]|[ \n="{}\[\],:#/*<\\-]|<<-?E|\nE\n|\PC|[0-9.eu]){0,60}"#) {
            if let Err(error) = parse(&text) {
                prop_assert!(error.line <= text.matches('\n').count() + 1);
            }
        }

        #[test]
        fn json_is_read_as_serde_reads_it(value in json()) {
            let text = serde_json::json!({ "a": value }).to_string();
            let items = parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
            // serde rounds numbers with a fraction in its own way.
            let want: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(as_json(&items), want);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<f64>()
                .prop_map(serde_json::Value::from)
                .prop_filter("no null", |v| !v.is_null()),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn as_json(items: &[Item]) -> serde_json::Value {
        let field = |item: &Item| (item.key.clone(), value_as_json(&item.node.value));
        serde_json::Value::Object(items.iter().map(field).collect())
    }

    fn value_as_json(value: &Value) -> serde_json::Value {
        match value {
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => value.clone().into(),
            Value::Text(value) => value.as_str().into(),
            Value::List(nodes) => nodes
                .iter()
                .map(|node| value_as_json(&node.value))
                .collect(),
            Value::Object(items) => as_json(items),
        }
    }
}
