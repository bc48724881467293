//! Templates for usernames: the part of Go's template language that the Vault documentation shows.
//!
//! `{{.DisplayName}}`, `{{.RoleName}}`, the functions of [`FUNCTIONS`], pipelines (`a | b`), and
//! parentheses. There are no variables, conditions or loops: an error names what is not understood.
//!
//! **Invariant:** a rendered name consists of letters, digits, `_`, `-`, `.` and `@` alone, whatever the
//! display name was, and is never cut silently.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use daypass_contract::{BackendError, Entropy, body};

/// The functions, with the number of arguments they take; the value before `|` is the last of them.
const FUNCTIONS: [(&str, usize); 12] = [
    ("base64", 1),
    ("lowercase", 1),
    ("printf", usize::MAX),
    ("random", 1),
    ("replace", 3),
    ("sha256", 1),
    ("truncate", 2),
    ("truncate_sha256", 2),
    ("unix_time", 0),
    ("unix_time_millis", 0),
    ("uppercase", 1),
    ("uuid", 0),
];

/// A parenthesis deeper than this is a mistake or an attack.
const MAX_DEPTH: usize = 8;
/// The longest text `random` makes.
const MAX_RANDOM: usize = 64;

/// What a template is rendered with.
pub(crate) struct Context<'a> {
    pub(crate) display_name: &'a str,
    pub(crate) role_name: &'a str,
    pub(crate) now: SystemTime,
    pub(crate) entropy: &'a dyn Entropy,
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Action(Pipeline),
}

/// Commands, each of which hands its value to the next.
#[derive(Debug)]
struct Pipeline(Vec<Command>);

#[derive(Debug)]
enum Command {
    Operand(Operand),
    Call {
        function: &'static str,
        arguments: Vec<Operand>,
    },
}

#[derive(Debug)]
enum Operand {
    Text(String),
    Number(usize),
    DisplayName,
    RoleName,
    Nested(Pipeline),
}

enum Value {
    Text(String),
    Number(u128),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`] for the field `username_template`.
    pub(crate) fn parse(text: &str) -> Result<Self, BackendError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let tokens = tokens(after).map_err(invalid)?;
            rest = tokens.rest;
            let mut parser = Parser {
                tokens: tokens.tokens.into_iter().peekable(),
                depth: 0,
            };
            parts.push(Part::Action(parser.action().map_err(invalid)?));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// Refuses a template by which two credentials could share a name: revoking one would end the
    /// other.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`] for the field `username_template`.
    pub(crate) fn must_be_unpredictable(&self, context: &Context<'_>) -> Result<(), BackendError> {
        // What is random must survive truncation too, hence the long fields.
        let long = Context {
            display_name: &"d".repeat(64),
            role_name: &"r".repeat(64),
            ..*context
        };
        let names = [self.evaluate(&long)?, self.evaluate(&long)?];
        let [first, second] = &names;
        let differing = first.chars().zip(second.chars()).filter(|(a, b)| a != b);
        if differing.count() < 5 {
            return Err(invalid(
                "gives two credentials the same name; let it hold {{random 10}} or {{uuid}}, where \
                 truncation keeps it",
            ));
        }
        Ok(())
    }

    /// A name of at most `max_bytes`.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] where it would be longer, or empty.
    pub(crate) fn render(
        &self,
        context: &Context<'_>,
        max_bytes: usize,
    ) -> Result<String, BackendError> {
        let name: String = self
            .evaluate(context)?
            .chars()
            .map(|c| if is_safe(c) { c } else { '_' })
            .collect();
        if name.is_empty() || name.len() > max_bytes {
            return Err(BackendError::InvalidRole(format!(
                "username_template gives a name of {} bytes where 1 to {max_bytes} are possible; \
                 end it with `| truncate {max_bytes}`",
                name.len()
            )));
        }
        Ok(name)
    }

    fn evaluate(&self, context: &Context<'_>) -> Result<String, BackendError> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Action(pipeline) => {
                    let value = pipeline.evaluate(context).map_err(invalid)?;
                    name.push_str(&value.into_text());
                }
            }
        }
        Ok(name)
    }
}

fn is_safe(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.@".contains(c)
}

fn invalid(problem: impl Into<String>) -> BackendError {
    BackendError::field("username_template", problem)
}

impl Value {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Pipeline {
    fn evaluate(&self, context: &Context<'_>) -> Result<Value, String> {
        let mut value = None;
        for command in &self.0 {
            value = Some(match command {
                Command::Operand(operand) => operand.evaluate(context)?,
                Command::Call {
                    function,
                    arguments,
                } => {
                    let mut values = Vec::new();
                    for argument in arguments {
                        values.push(argument.evaluate(context)?);
                    }
                    values.extend(value);
                    call(function, values, context)?
                }
            });
        }
        value.ok_or_else(|| "has an empty {{}}".into())
    }
}

impl Operand {
    fn evaluate(&self, context: &Context<'_>) -> Result<Value, String> {
        Ok(match self {
            Self::Text(text) => Value::Text(text.clone()),
            Self::Number(number) => Value::Number(*number as u128),
            Self::DisplayName => Value::Text(context.display_name.to_owned()),
            Self::RoleName => Value::Text(context.role_name.to_owned()),
            Self::Nested(pipeline) => pipeline.evaluate(context)?,
        })
    }
}

/// Runs a function. The parser checked the number of arguments.
fn call(function: &str, values: Vec<Value>, context: &Context<'_>) -> Result<Value, String> {
    let mut values = values.into_iter();
    let mut text = || values.next().map(Value::into_text).unwrap_or_default();
    let number = |text: String| {
        text.parse::<usize>()
            .map_err(|_| format!("{function} needs a number as its first argument"))
    };
    let since_epoch = context.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Value::Text(match function {
        "base64" => BASE64_STANDARD.encode(text()),
        "lowercase" => text().to_lowercase(),
        "uppercase" => text().to_uppercase(),
        "sha256" => sha256(&text()),
        "replace" => {
            let (from, to) = (text(), text());
            text().replace(&from, &to)
        }
        "truncate" => {
            let max = number(text())?;
            text().chars().take(max).collect()
        }
        "truncate_sha256" => {
            let (max, text) = (number(text())?, text());
            truncate_sha256(&text, max)?
        }
        "random" => random(number(text())?, context.entropy)?,
        "uuid" => uuid::Builder::from_random_bytes(context.entropy.bytes())
            .into_uuid()
            .to_string(),
        "unix_time" => return Ok(Value::Number(since_epoch.as_secs().into())),
        "unix_time_millis" => return Ok(Value::Number(since_epoch.as_millis())),
        _ => {
            let format = text();
            printf(&format, values)?
        }
    }))
}

fn sha256(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

/// As Vault has it: what is cut off is replaced by the first 8 digits of its hash.
fn truncate_sha256(text: &str, max: usize) -> Result<String, String> {
    let Some(kept) = max.checked_sub(8).filter(|kept| *kept > 0) else {
        return Err("truncate_sha256 needs a length above 8".into());
    };
    if text.chars().count() <= max {
        return Ok(text.to_owned());
    }
    let head: String = text.chars().take(kept).collect();
    let tail: String = text.chars().skip(kept).collect();
    let hash: String = sha256(&tail).chars().take(8).collect();
    Ok(head + &hash)
}

/// Letters and digits.
fn random(length: usize, entropy: &dyn Entropy) -> Result<String, String> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    if length == 0 || length > MAX_RANDOM {
        return Err(format!("random needs a length from 1 to {MAX_RANDOM}"));
    }
    let letter = || ALPHABET.get(entropy.below(ALPHABET.len())).copied();
    Ok((0..length)
        .filter_map(|_| letter().map(char::from))
        .collect())
}

/// Go's `printf` with `%s`, `%d`, `%v` and `%%`.
fn printf(format: &str, mut values: impl Iterator<Item = Value>) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('s' | 'd' | 'v') => {
                let value = values
                    .next()
                    .ok_or("printf has more verbs than arguments")?;
                out.push_str(&value.into_text());
            }
            _ => return Err("printf knows %s, %d, %v and %%".into()),
        }
    }
    match values.next() {
        None => Ok(out),
        Some(_) => Err("printf has more arguments than verbs".into()),
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Field(String),
    Word(String),
    Text(String),
    Number(usize),
    Pipe,
    Open,
    Close,
}

struct Tokens<'a> {
    tokens: Vec<Token>,
    rest: &'a str,
}

/// Reads to the `}}` that ends an action. A `}}` in a string does not.
fn tokens(text: &str) -> Result<Tokens<'_>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix("}}") {
            return Ok(Tokens { tokens, rest });
        }
        let Some(next) = rest.chars().next() else {
            return Err("has a {{ without its }}".into());
        };
        let (token, taken) = match next {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '"' => string(rest)?,
            '`' => {
                let end = rest.get(1..).and_then(|rest| rest.find('`'));
                let end = end.ok_or("has a string that is not closed")?;
                let inside = rest.get(1..=end).unwrap_or_default();
                (Token::Text(inside.to_owned()), end + 2)
            }
            _ => {
                let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let (word, _) = rest.split_at(end);
                let token = match word.strip_prefix('.') {
                    Some(field) => Token::Field(field.to_owned()),
                    None if word.is_empty() => {
                        return Err("has a character that is not understood within {{ }}".into());
                    }
                    None => match word.parse() {
                        Ok(number) => Token::Number(number),
                        Err(_) => Token::Word(word.to_owned()),
                    },
                };
                (token, end)
            }
        };
        tokens.push(token);
        rest = rest.get(taken..).unwrap_or_default();
    }
}

/// A string between quotation marks, at the start of `text`, and its length there.
fn string(text: &str) -> Result<(Token, usize), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((Token::Text(out), at + 1)),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => out.push(escaped),
                _ => return Err(r#"knows only \" and \\ in strings"#.into()),
            },
            _ => out.push(char),
        }
    }
    Err("has a string that is not closed".into())
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    fn action(&mut self) -> Result<Pipeline, String> {
        let pipeline = self.pipeline()?;
        match self.tokens.next() {
            None => Ok(pipeline),
            Some(_) => Err("has a ) without its (".into()),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let mut commands = vec![self.command(false)?];
        while self.tokens.next_if_eq(&Token::Pipe).is_some() {
            commands.push(self.command(true)?);
        }
        Ok(Pipeline(commands))
    }

    fn command(&mut self, piped: bool) -> Result<Command, String> {
        let is_word = |token: &Token| matches!(token, Token::Word(_));
        let Some(Token::Word(name)) = self.tokens.next_if(is_word) else {
            let operand = self.operand()?.ok_or("has an empty {{ }} or pipe")?;
            if piped || self.operand()?.is_some() {
                return Err("has a value where a function is needed".into());
            }
            return Ok(Command::Operand(operand));
        };
        let (function, wanted) = function(&name)?;
        let mut arguments = Vec::new();
        while let Some(argument) = self.operand()? {
            arguments.push(argument);
        }
        let given = arguments.len() + usize::from(piped);
        if given != wanted && wanted != usize::MAX {
            return Err(format!(
                "gives {function} {given} arguments; it takes {wanted}"
            ));
        }
        Ok(Command::Call {
            function,
            arguments,
        })
    }

    /// The next operand, or `None` at the end of a command.
    fn operand(&mut self) -> Result<Option<Operand>, String> {
        let ends = |token: &Token| matches!(token, Token::Pipe | Token::Close);
        if self.tokens.peek().is_none_or(ends) {
            return Ok(None);
        }
        Ok(Some(match self.tokens.next() {
            Some(Token::Field(name)) => field(&name)?,
            Some(Token::Text(text)) => Operand::Text(text),
            Some(Token::Number(number)) => Operand::Number(number),
            Some(Token::Open) => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err("has too many parentheses within each other".into());
                }
                let pipeline = self.pipeline()?;
                if self.tokens.next() != Some(Token::Close) {
                    return Err("has a ( without its )".into());
                }
                self.depth -= 1;
                Operand::Nested(pipeline)
            }
            // A function without arguments may stand where a value does.
            Some(Token::Word(name)) => {
                let (function, wanted) = function(&name)?;
                if wanted != 0 {
                    return Err(format!("needs parentheses around {function} here"));
                }
                Operand::Nested(Pipeline(vec![Command::Call {
                    function,
                    arguments: Vec::new(),
                }]))
            }
            Some(Token::Pipe | Token::Close) | None => return Ok(None),
        }))
    }
}

fn function(name: &str) -> Result<(&'static str, usize), String> {
    FUNCTIONS
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| {
            let known = FUNCTIONS.map(|(name, _)| name);
            match body::nearest(name, known.into_iter()) {
                Some(near) => format!("uses an unknown function; did you mean {near}?"),
                None => format!("uses an unknown function; known are {}", known.join(", ")),
            }
        })
}

fn field(name: &str) -> Result<Operand, String> {
    match name {
        "DisplayName" => Ok(Operand::DisplayName),
        "RoleName" => Ok(Operand::RoleName),
        _ => Err("knows the fields .DisplayName and .RoleName".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use daypass_conformance::SeededEntropy;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::PLUGINS;

    fn render(
        template: &str,
        display_name: &str,
        entropy: &SeededEntropy,
    ) -> Result<String, String> {
        let context = Context {
            display_name,
            role_name: "my-long-Role",
            now: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            entropy,
        };
        Template::parse(template)
            .and_then(|template| template.render(&context, 63))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_vault_documentation_shows_is_understood() {
        let cases = [
            ("static", Ok("static")),
            (
                "{{.DisplayName}}-{{.RoleName}}",
                Ok("token-CI-my-long-Role"),
            ),
            ("{{ .RoleName | truncate 4 }}", Ok("my-l")),
            ("{{truncate 4 .RoleName}}", Ok("my-l")),
            ("{{.RoleName | uppercase | truncate 3}}", Ok("MY-")),
            ("{{.DisplayName | lowercase}}", Ok("token-ci")),
            ("{{.DisplayName | replace \"-\" \"_\"}}", Ok("token_CI")),
            ("{{.DisplayName | replace `-` \"\"}}", Ok("tokenCI")),
            (
                "{{unix_time}}.{{unix_time_millis}}",
                Ok("1700000000.1700000000123"),
            ),
            ("{{\"x\" | sha256 | truncate 8}}", Ok("2d711642")),
            ("{{.RoleName | truncate_sha256 10}}", Ok("my8fe1e5ca")),
            ("{{.RoleName | truncate_sha256 12}}", Ok("my-long-Role")),
            ("{{\"a b\" | base64}}", Ok("YSBi")),
            (
                "{{printf \"%s.%d%%\" .RoleName 7 | replace \"%\" \"\"}}",
                Ok("my-long-Role.7"),
            ),
            (
                "{{ printf \"v-%s\" (.DisplayName | truncate 5) | truncate 63 }}",
                Ok("v-token"),
            ),
            ("{{\"a/b c\u{e9}\"}}", Ok("a_b_c_")),
            ("{{.Role}}", Err(".DisplayName and .RoleName")),
            ("{{.RoleName | shorten 4}}", Err("unknown function")),
            ("{{.RoleName | uppercas}}", Err("did you mean uppercase?")),
            (
                "{{truncate .RoleName}}",
                Err("gives truncate 1 arguments; it takes 2"),
            ),
            ("{{.RoleName | truncate \"x\"}}", Err("needs a number")),
            ("{{random 100}}", Err("from 1 to 64")),
            ("{{random 0}}", Err("from 1 to 64")),
            ("{{}}", Err("empty {{ }}")),
            ("{{.RoleName", Err("without its }}")),
            ("{{(.RoleName}}", Err("a ( without its )")),
            ("{{.RoleName)}}", Err("a ) without its (")),
            ("{{\"x}}", Err("not closed")),
            ("{{.RoleName .RoleName}}", Err("where a function is needed")),
            ("{{printf \"%s\"}}", Err("more verbs than arguments")),
            ("{{if .RoleName}}", Err("unknown function")),
            (
                "{{((((((((((.RoleName))))))))))}}",
                Err("too many parentheses"),
            ),
            ("{{random 64}}", Err("name of 64 bytes where 1 to 63")),
        ];
        for (template, want) in cases {
            let got = render(template, "token-CI", &SeededEntropy::new(1));
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{template}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{template}: {got}"),
                (got, want) => panic!("{template}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn every_default_is_unpredictable_recognisable_and_short_enough() {
        let entropy = SeededEntropy::new(1);
        for plugin in PLUGINS {
            let first = render(plugin.username_template, &"d".repeat(200), &entropy).unwrap();
            let second = render(plugin.username_template, "", &entropy).unwrap();
            assert_ne!(first, second);
            assert!(first.starts_with("v-dddddddd-my-long-"), "{first}");
            assert!(first.len() <= plugin.max_username_bytes);
        }
    }

    #[test]
    fn a_template_by_which_two_could_share_a_name_is_refused() {
        let cases = [
            ("{{.DisplayName}}-{{.RoleName}}-{{unix_time}}", false),
            ("{{random 3}}", false),
            ("{{.DisplayName}}{{random 20}}", true),
            (
                "{{printf \"%s%s\" .DisplayName (random 20) | truncate 63}}",
                false,
            ),
            ("{{uuid}}", true),
            ("{{random 10}}", true),
        ];
        for (template, want) in cases {
            let context = Context {
                display_name: "",
                role_name: "",
                now: UNIX_EPOCH,
                entropy: &SeededEntropy::new(1),
            };
            let result = Template::parse(template)
                .unwrap()
                .must_be_unpredictable(&context);
            assert_eq!(result.is_ok(), want, "{template}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_of_the_safe_alphabet_whoever_asks(display_name in "\\PC{0,40}") {
            let name = render("x{{.DisplayName | truncate 40}}", &display_name, &SeededEntropy::new(1));
            prop_assert!(name.unwrap().chars().all(is_safe));
        }

        #[test]
        fn any_text_is_read_to_an_end(text in "(\\{\\{|\\}\\}|[a-z.|()\"` 0-9]|\\PC){0,40}") {
            let _ = render(&text, "d", &SeededEntropy::new(1));
        }
    }
}
