//! SQL that operators write, with placeholders that stand for what is chosen per credential.
//!
//! Text is read with PostgreSQL's lexical rules, so that every placeholder is known by where it
//! stands: `"{{name}}"` doubles quotation marks, `'{{password}}'` doubles apostrophes, and a bare
//! `{{name}}` is quoted whole. A comment is left as it is.
//!
//! **Invariant:** a value cannot end the quotation it is put into. Where no quoting would be right (a
//! literal within a literal, a dollar-quoted body that holds its own delimiter) rendering refuses.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use daypass_contract::{BackendError, body};

/// What a placeholder stands for. `{{username}}` is another word for `{{name}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Name,
    Password,
    Expiration,
}

impl Variable {
    const ALL: [(&'static str, Self); 4] = [
        ("name", Self::Name),
        ("username", Self::Name),
        ("password", Self::Password),
        ("expiration", Self::Expiration),
    ];
}

/// What the placeholders of one rendering stand for.
pub(crate) struct Values<'a> {
    pub(crate) name: &'a str,
    pub(crate) password: &'a str,
    pub(crate) expiration: &'a str,
}

/// Statements with their placeholders found.
#[derive(Debug)]
pub(crate) struct Statements {
    field: &'static str,
    statements: Vec<Vec<Piece>>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Hole(Hole),
    /// A dollar-quoted body with placeholders in it.
    Body {
        delimiter: String,
        inside: Vec<Piece>,
    },
}

#[derive(Debug)]
struct Hole {
    variable: Variable,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Bare,
    /// Between `mark`s. `escapes`: it is an `E'…'`. `layered`: it holds doubled marks, so it may be read
    /// a second time by something that unquotes again.
    Quoted {
        mark: char,
        escapes: bool,
        layered: bool,
    },
}

/// The statements of a field as the Vault API takes them: each item may be SQL, several statements of
/// SQL, a JSON array of them in a string, or either in base64.
pub(crate) fn unpack(items: Vec<String>) -> Vec<String> {
    let unpack_one = |item: String| -> Vec<String> {
        let decoded = BASE64_STANDARD
            .decode(item.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|text| text.contains(' '));
        let text = decoded.unwrap_or(item);
        serde_json::from_str::<Vec<String>>(&text).unwrap_or_else(|_| vec![text])
    };
    items
        .into_iter()
        .flat_map(unpack_one)
        .filter(|text| !text.trim().is_empty())
        .collect()
}

impl Statements {
    /// Reads `texts`, the value of `field`, in which only `allowed` placeholders make sense.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`], which names the field and the fix.
    pub(crate) fn parse(
        field: &'static str,
        texts: &[String],
        allowed: &[Variable],
    ) -> Result<Self, BackendError> {
        let mut statements = Vec::new();
        for text in texts {
            let mut reader = Reader::new(text, allowed, false);
            reader
                .read()
                .map_err(|problem| BackendError::field(field, problem))?;
            statements.append(&mut reader.finished);
        }
        Ok(Self { field, statements })
    }

    /// Whether a placeholder for `variable` occurs.
    pub(crate) fn use_variable(&self, variable: Variable) -> bool {
        self.statements
            .iter()
            .flatten()
            .any(|piece| piece.uses(variable))
    }

    /// The statements as one text, each ended by a semicolon.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] where a value cannot be quoted safely where it is wanted.
    pub(crate) fn render(&self, values: &Values<'_>) -> Result<String, BackendError> {
        let mut sql = String::new();
        for statement in &self.statements {
            for piece in statement {
                piece.render(values, &mut sql).map_err(|problem| {
                    BackendError::InvalidRole(format!("{}: {problem}", self.field))
                })?;
            }
            // A line of its own, because the statement may end in a comment.
            sql.push_str("\n;\n");
        }
        Ok(sql)
    }
}

impl Piece {
    fn uses(&self, variable: Variable) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Hole(hole) => hole.variable == variable,
            Self::Body { inside, .. } => inside.iter().any(|piece| piece.uses(variable)),
        }
    }

    fn render(&self, values: &Values<'_>, sql: &mut String) -> Result<(), String> {
        match self {
            Self::Text(text) => sql.push_str(text),
            Self::Hole(hole) => hole.fill(values, sql)?,
            Self::Body { delimiter, inside } => {
                sql.push_str(delimiter);
                let mut body = String::new();
                for piece in inside {
                    piece.render(values, &mut body)?;
                }
                let length = body.len();
                body.push_str(delimiter);
                if body.find(delimiter) != Some(length) {
                    return Err(format!("a value holds the delimiter {delimiter} around it"));
                }
                sql.push_str(&body);
            }
        }
        Ok(())
    }
}

impl Hole {
    fn fill(&self, values: &Values<'_>, sql: &mut String) -> Result<(), String> {
        let (what, value) = match self.variable {
            Variable::Name => ("name", values.name),
            Variable::Password => ("password", values.password),
            Variable::Expiration => ("expiration", values.expiration),
        };
        let refuse = |problem| Err(format!("this {what} {problem}"));
        if value.contains('\0') {
            return refuse("holds a NUL, which PostgreSQL cannot store");
        }
        let filled = match self.place {
            Place::Bare if self.variable == Variable::Name => quote(value, '"'),
            Place::Bare => quote(value, '\''),
            Place::Quoted { mark, .. } => double(value, mark),
        };
        let filled = match self.place {
            Place::Quoted { layered: true, .. } if value.contains(['\'', '"', '\\']) => {
                return refuse(
                    "holds a quotation mark or a backslash, which cannot be quoted within quotes; \
                     take those characters out of the password policy",
                );
            }
            Place::Quoted { escapes: true, .. } => filled.replace('\\', r"\\"),
            // What a backslash means here is a setting of the server.
            Place::Bare | Place::Quoted { mark: '\'', .. } if value.contains('\\') => {
                return refuse("holds a backslash; take it out of the password policy");
            }
            Place::Bare | Place::Quoted { .. } => filled,
        };
        sql.push_str(&filled);
        Ok(())
    }
}

/// `text` as a quoted identifier.
pub(crate) fn identifier(text: &str) -> String {
    quote(text, '"')
}

/// `text` as a string literal. To be used for text without a backslash, whose meaning is a setting.
pub(crate) fn literal(text: &str) -> String {
    quote(text, '\'')
}

fn quote(text: &str, mark: char) -> String {
    format!("{mark}{}{mark}", double(text, mark))
}

fn double(text: &str, mark: char) -> String {
    text.replace(mark, &format!("{mark}{mark}"))
}

/// Reads one text, or the inside of one dollar-quoted body.
struct Reader<'a> {
    rest: &'a str,
    allowed: &'a [Variable],
    /// Whether this is the inside of a dollar-quoted body.
    in_body: bool,
    /// Text since the last placeholder.
    text: String,
    statement: Vec<Piece>,
    /// The statement's first word, in capitals, while it lasts.
    word: String,
    word_ended: bool,
    finished: Vec<Vec<Piece>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, allowed: &'a [Variable], in_body: bool) -> Self {
        Self {
            rest: text,
            allowed,
            in_body,
            text: String::new(),
            statement: Vec::new(),
            word: String::new(),
            word_ended: false,
            finished: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest.chars().next() {
            if self.rest.starts_with("--") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.copy(end);
            } else if self.rest.starts_with("/*") {
                let end = comment_end(self.rest).ok_or("a comment /* is not closed")?;
                self.copy(end);
            } else if let Some((variable, length)) = self.placeholder(self.rest)? {
                if self.in_body {
                    return Err("within $…$, a placeholder needs quotation marks around it".into());
                }
                self.skip(length);
                self.hole(variable, Place::Bare);
            } else if next == '\'' || next == '"' {
                self.quoted(next)?;
            } else if let Some(delimiter) = self.dollar_delimiter() {
                self.dollar_quoted(delimiter)?;
            } else if next == ';' && !self.in_body {
                self.skip(1);
                self.end_statement()?;
            } else {
                self.take_word(next);
                self.copy(next.len_utf8());
            }
        }
        self.end_statement()
    }

    fn end_statement(&mut self) -> Result<(), String> {
        const CONTROL: [&str; 8] = [
            "BEGIN",
            "START",
            "COMMIT",
            "END",
            "ROLLBACK",
            "ABORT",
            "SAVEPOINT",
            "RELEASE",
        ];
        self.flush();
        let statement = std::mem::take(&mut self.statement);
        let word = std::mem::take(&mut self.word);
        self.word_ended = false;
        if !self.in_body && CONTROL.contains(&word.as_str()) {
            return Err(format!(
                "{word} cannot be used here: the statements already run in one transaction"
            ));
        }
        let blank = |piece: &Piece| matches!(piece, Piece::Text(text) if text.trim().is_empty());
        if !statement.iter().all(blank) {
            self.finished.push(statement);
        }
        Ok(())
    }

    /// A string or a quoted identifier, from its opening mark to its closing one.
    fn quoted(&mut self, mark: char) -> Result<(), String> {
        self.word_ended = true;
        let escapes = mark == '\'' && self.follows_escape_prefix();
        self.copy(1);
        let mut end = None;
        let mut layered = false;
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, char)) = chars.next() {
            if char == '\\' && escapes {
                chars.next();
            } else if char == mark {
                if chars.next_if(|(_, next)| *next == mark).is_none() {
                    end = Some(at);
                    break;
                }
                layered = true;
            }
        }
        let end = end.ok_or_else(|| format!("a quotation mark {mark} is not closed"))?;
        let (inside, _) = self.rest.split_at(end);
        let place = Place::Quoted {
            mark,
            escapes,
            layered,
        };
        self.inside_quotes(inside, place)?;
        self.rest = self.rest.get(end..).unwrap_or_default();
        self.copy(1);
        Ok(())
    }

    fn inside_quotes(&mut self, inside: &'a str, place: Place) -> Result<(), String> {
        let mut rest = inside;
        while let Some(char) = rest.chars().next() {
            let taken = if let Some((variable, length)) = self.placeholder(rest)? {
                self.hole(variable, place);
                length
            } else {
                self.text.push(char);
                char.len_utf8()
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// `$tag$ … $tag$`. Its inside is read as SQL where it holds a placeholder (`DO $$ … $$`).
    fn dollar_quoted(&mut self, delimiter: &'a str) -> Result<(), String> {
        self.word_ended = true;
        let inside = self.rest.get(delimiter.len()..).unwrap_or_default();
        let end = inside
            .find(delimiter)
            .ok_or_else(|| format!("a dollar quotation {delimiter} is not closed"))?;
        let (inside, _) = inside.split_at(end);
        let whole = inside.len() + 2 * delimiter.len();
        if !inside.contains("{{") {
            self.copy(whole);
            // Its last `$` is no letter that a quotation right after it would belong to.
            self.flush();
            return Ok(());
        }
        let mut reader = Reader::new(inside, self.allowed, true);
        reader.read()?;
        self.flush();
        self.statement.push(Piece::Body {
            delimiter: delimiter.to_owned(),
            inside: reader.finished.into_iter().flatten().collect(),
        });
        self.skip(whole);
        Ok(())
    }

    /// The placeholder at the start of `text`, and its length.
    fn placeholder(&self, text: &str) -> Result<Option<(Variable, usize)>, String> {
        let Some((name, _)) = text
            .strip_prefix("{{")
            .and_then(|rest| rest.split_once("}}"))
        else {
            return Ok(None);
        };
        let is_name = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '.' || c == ' ';
        if name.is_empty() || !name.chars().all(is_name) {
            return Ok(None);
        }
        let known = Variable::ALL
            .iter()
            .filter(|(_, variable)| self.allowed.contains(variable));
        if let Some((_, variable)) = known.clone().find(|(known, _)| *known == name) {
            return Ok(Some((*variable, name.len() + 4)));
        }
        let names: Vec<&str> = known.map(|(name, _)| *name).collect();
        let advice = match body::nearest(name.trim(), names.iter().copied()) {
            Some(near) => format!("did you mean {{{{{near}}}}}?"),
            None => format!("known are {{{{{}}}}}", names.join("}}, {{")),
        };
        Err(format!("a placeholder is not known here; {advice}"))
    }

    /// The delimiter, where a dollar quotation begins here.
    fn dollar_delimiter(&self) -> Option<&'a str> {
        if self.follows_identifier() {
            return None;
        }
        let tag = self.rest.strip_prefix('$')?;
        let length = tag.find('$')?;
        let (tag, _) = tag.split_at_checked(length)?;
        let mut chars = tag.chars();
        let first_ok = chars
            .next()
            .is_none_or(|c| is_identifier(c) && !c.is_ascii_digit());
        (first_ok && chars.all(is_identifier))
            .then(|| self.rest.get(..length + 2))
            .flatten()
    }

    /// Whether the text so far ends in a letter of an identifier, to which a `$` would belong.
    fn follows_identifier(&self) -> bool {
        let last = self.text.chars().next_back();
        last.is_some_and(|c| is_identifier(c) || c == '$')
    }

    /// Whether the text so far ends in the `E` of `E'…'`.
    fn follows_escape_prefix(&self) -> bool {
        let mut before = self.text.chars().rev();
        before.next().is_some_and(|c| c == 'e' || c == 'E')
            && !before.next().is_some_and(|c| is_identifier(c) || c == '$')
    }

    fn take_word(&mut self, next: char) {
        if next.is_ascii_alphabetic() && !self.word_ended {
            self.word.push(next.to_ascii_uppercase());
        } else if !self.word.is_empty() {
            self.word_ended = true;
        }
    }

    fn hole(&mut self, variable: Variable, place: Place) {
        self.flush();
        self.statement.push(Piece::Hole(Hole { variable, place }));
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.statement
                .push(Piece::Text(std::mem::take(&mut self.text)));
        }
    }

    fn copy(&mut self, length: usize) {
        self.text
            .push_str(self.rest.get(..length).unwrap_or_default());
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }
}

fn is_identifier(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

/// Where the comment at the start of `text` ends. Comments nest.
fn comment_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if char == '/' && chars.next_if(|(_, next)| *next == '*').is_some() {
            depth += 1;
        } else if char == '*' && chars.next_if(|(_, next)| *next == '/').is_some() {
            depth -= 1;
            if depth == 0 {
                return Some(at + 2);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use daypass_conformance::Postgres;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Variable; 3] = [Variable::Name, Variable::Password, Variable::Expiration];

    fn parse(texts: &[&str]) -> Result<Statements, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Statements::parse("creation_statements", &texts, &ALL).map_err(|error| error.to_string())
    }

    fn render(texts: &[&str], password: &str) -> Result<String, String> {
        let values = Values {
            name: "v-a",
            password,
            expiration: "2026-11-23 21:00:00+00:00",
        };
        let sql = parse(texts)?.render(&values);
        let sql = sql.map_err(|error| error.to_string())?;
        Ok(sql.trim_end_matches("\n;\n").replace("\n;\n", " ; "))
    }

    #[test]
    fn a_placeholder_is_quoted_as_its_place_asks() {
        let hard = "a'b\"c";
        let cases = [
            (
                "ROLE \"{{name}}\" PASSWORD '{{password}}'",
                hard,
                Ok("ROLE \"v-a\" PASSWORD 'a''b\"c'"),
            ),
            (
                "ROLE {{username}} PASSWORD {{password}}",
                hard,
                Ok("ROLE \"v-a\" PASSWORD 'a''b\"c'"),
            ),
            (
                "UNTIL '{{expiration}}'",
                "",
                Ok("UNTIL '2026-11-23 21:00:00+00:00'"),
            ),
            ("x \"{{password}}\"", hard, Ok("x \"a'b\"\"c\"")),
            (r"x E'\'{{password}}'", r"a\'b", Ok(r"x E'\'a\\''b'")),
            (r"type'{{password}}'", r"a\b", Err("holds a backslash")),
            ("x '{{password}}'", r"a\b", Err("holds a backslash")),
            ("x '''{{password}}'''", "ab", Ok("x '''ab'''")),
            (
                "x '''{{password}}'''",
                "a'b",
                Err("cannot be quoted within quotes"),
            ),
            ("DO $$ x '{{password}}' $$", "a'b", Ok("DO $$ x 'a''b' $$")),
            ("DO $$ x '{{password}}' $$", "a$b", Ok("DO $$ x 'a$b' $$")),
            (
                "DO $$ x '{{password}}' $$",
                "a$$b",
                Err("holds the delimiter $$"),
            ),
            (
                "DO $t$ x '$t{{password}}' $t$",
                "$b",
                Err("holds the delimiter $t$"),
            ),
            (
                "DO $t$ x $$y '{{password}}'$$ $t$",
                "$$",
                Err("holds the delimiter $$"),
            ),
            (
                "DO $t$ x $$y '{{password}}'$$ $t$",
                "$t$",
                Err("holds the delimiter $t$"),
            ),
            (
                "DO $$ x {{password}} $$",
                "ab",
                Err("needs quotation marks around it"),
            ),
            ("x -- {{password}}", hard, Ok("x -- {{password}}")),
            (
                "x /* /* {{password}} */ ' */ y",
                hard,
                Ok("x /* /* {{password}} */ ' */ y"),
            ),
            ("x '{{1,2},{3,4}}'", "", Ok("x '{{1,2},{3,4}}'")),
            ("x '{{password}}'", "a\0b", Err("holds a NUL")),
            ("x '{{ password }}'", "", Err("did you mean {{password}}?")),
            ("x '{{expires}}'", "", Err("known are {{name}}")),
        ];
        for (sql, password, want) in cases {
            match (render(&[sql], password), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{sql}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{sql}: {got}"),
                (got, want) => panic!("{sql}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn statements_are_told_apart_where_the_server_would() {
        let cases: &[(&[&str], Result<&str, &str>)] = &[
            (&["a; b;", " ;; ", "c"], Ok("a ;  b ; c")),
            (
                &["a 'x;y' \";\" $$ ; $$ $q$;$$;$q$ -- ;\n/* ; */ b; c"],
                Ok("a 'x;y' \";\" $$ ; $$ $q$;$$;$q$ -- ;\n/* ; */ b ;  c"),
            ),
            (&["a -- no end", "b"], Ok("a -- no end ; b")),
            (&["f(a$b$c); x$1"], Ok("f(a$b$c) ;  x$1")),
            (&["$$ a $$$$ ; $$; b"], Ok("$$ a $$$$ ; $$ ;  b")),
            (&["begin; x"], Err("BEGIN cannot be used here")),
            (&["x; /* c */ Commit"], Err("COMMIT cannot be used here")),
            (
                &["DO $$ BEGIN x '{{name}}'; END $$"],
                Ok("DO $$ BEGIN x 'v-a'; END $$"),
            ),
            (&["beginning"], Ok("beginning")),
            (&["a 'b"], Err("a quotation mark ' is not closed")),
            (&["a \"b"], Err("a quotation mark \" is not closed")),
            (
                &["a $x$ b $y$"],
                Err("a dollar quotation $x$ is not closed"),
            ),
            (&["a /* /* */"], Err("a comment /* is not closed")),
        ];
        for (texts, want) in cases {
            match (render(texts, "p"), want) {
                (Ok(got), Ok(want)) => assert_eq!(&got, want, "{texts:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{texts:?}: {got}"),
                (got, want) => panic!("{texts:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn statements_come_in_all_the_forms_that_clients_send() {
        let sql = "SELECT 1; SELECT 2";
        let list = r#"["SELECT 1", "SELECT 2"]"#;
        let two = vec!["SELECT 1".to_owned(), "SELECT 2".to_owned()];
        assert_eq!(unpack(vec![sql.into()]), [sql]);
        assert_eq!(unpack(vec![list.into()]), two);
        assert_eq!(unpack(vec![BASE64_STANDARD.encode(sql)]), [sql]);
        assert_eq!(unpack(vec![BASE64_STANDARD.encode(list)]), two);
        assert_eq!(unpack(vec!["VACUUMED".into(), " ".into()]), ["VACUUMED"]);
    }

    /// The server is the judge: what comes back is what was put in.
    #[test]
    fn a_real_server_reads_back_every_value() {
        let server = Postgres::start();
        let values = [
            "plain", "a'b", "''", "a\"b", "a;b--c", "/*x", "$$", "a$x$b", "{{name}}", "é'日",
        ];
        let places = [
            "SELECT '{{password}}'",
            "SELECT {{password}}",
            r"SELECT E'{{password}}'",
            "SELECT \"{{password}}\" FROM (SELECT 1) AS t(\"{{password}}\") WHERE false; \
             SELECT '{{password}}'",
        ];
        for value in values {
            for place in places {
                let sql = render(&[place], value).unwrap();
                assert_eq!(server.query(&sql), value, "{place} of {value}");
            }
            let sql =
                "DO $d$ BEGIN ASSERT length('{{password}}') = current_setting('t.n')::int; END $d$";
            let sql = render(&[sql], value).unwrap();
            let set = format!("SET t.n = {}; {sql}", value.chars().count());
            server.query(&set);
        }
    }

    proptest! {
        /// Nothing that is written makes the reader fail to end, or lose text.
        #[test]
        fn text_without_placeholders_is_kept(text in "[a-z0-9 ;'\"$/*\\\\\n-]{0,60}") {
            if let Ok(got) = render(&[&text], "p") {
                let bare = |text: &str| text.replace([' ', ';', '\n'], "");
                prop_assert_eq!(bare(&got), bare(&text));
            }
        }

        /// A literal ends where it ended in the template, whatever the value is.
        #[test]
        fn no_value_ends_its_quotation(value in "[a-z'\"$;\\\\{}-]{0,20}") {
            for (sql, mark) in [("'{{password}}'", '\''), ("\"{{password}}\"", '"')] {
                let Ok(got) = render(&[sql], &value) else { continue };
                let inside = got.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
                let inside = inside.unwrap();
                let pair = format!("{mark}{mark}");
                prop_assert!(!inside.replace(&pair, "").contains(mark), "{}", got);
                prop_assert_eq!(inside.replace(&pair, &mark.to_string()), value.as_str());
            }
        }

        #[test]
        fn any_text_is_read_to_an_end(text in "\\PC{0,60}") {
            let _ = render(&[&text], "p");
        }
    }
}
