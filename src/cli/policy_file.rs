//! Policies as files: checked and laid out without a server.

use std::path::Path;

use clap::Args;

use super::Failure;
use super::context::Context;
use crate::client::write_file;
use crate::policy::Policy;

pub(super) const CHECK: &str = "\
Reads a policy as the server would, and says where it is wrong: line, column, and what to write instead.

    $ daypass policy check ci.hcl
    $ daypass policy check - < ci.hcl";

pub(super) const FMT: &str = "\
Lays a policy out: indents by nesting, drops trailing blanks, keeps comments and every word. Files are rewritten in
place; standard input (-) goes to standard output.

    $ daypass policy fmt ci.hcl ops.hcl
    $ daypass policy fmt - < ci.hcl";

/// Policy files.
#[derive(Args)]
pub(super) struct Files {
    /// Files; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
}

impl Files {
    /// `daypass policy check`.
    pub(super) fn check(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        for file in &self.files {
            let text = context.read_text(file)?;
            let policy = parse(file, &text)?;
            let rules = policy.rules().len();
            let rules_word = if rules == 1 { "rule" } else { "rules" };
            context.done(&format!("{file} is valid: {rules} {rules_word}"))?;
        }
        Ok(())
    }

    /// `daypass policy fmt`.
    pub(super) fn format(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        for file in &self.files {
            let text = context.read_text(file)?;
            let before = parse(file, &text)?;
            let formatted = format(&text);
            // Whatever a layout may look like, it must not change what a policy allows.
            if parse(file, &formatted)?.rules() != before.rules() {
                return Err(Failure::usage(
                    format!("lay out {file}"),
                    "it would mean something else afterwards; it is left as it is",
                ));
            }
            if file == "-" {
                context.print(&formatted)?;
            } else if formatted != text {
                write_file(Path::new(file), formatted.as_bytes()).map_err(|error| {
                    Failure::usage(format!("lay out {file}"), error.to_string())
                })?;
                context.done(&format!("Laid out: {file}"))?;
            }
        }
        Ok(())
    }
}

fn parse(file: &str, text: &str) -> Result<Policy, Failure> {
    Policy::parse(file, text)
        .map_err(|error| Failure::usage(format!("use the policy {file}"), error.to_string()))
}

/// Where a line begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between words.
    Code,
    /// In a `/* … */`.
    Comment,
}

/// The text with each line indented by the brackets around it.
fn format(text: &str) -> String {
    // The lines of a here-document are values: not one blank of it may move.
    if text.contains("<<") {
        return text.to_owned();
    }
    let mut formatted = String::with_capacity(text.len());
    let (mut state, mut depth, mut blank) = (State::Code, 0_usize, false);
    for line in text.lines() {
        if state == State::Comment {
            formatted.push_str(line.trim_end());
            formatted.push('\n');
            scan(line, &mut state, &mut depth);
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            blank = true;
            continue;
        }
        let closing = line.chars().take_while(|c| matches!(c, '}' | ']')).count();
        if std::mem::take(&mut blank) && !formatted.is_empty() && closing == 0 {
            formatted.push('\n');
        }
        formatted.push_str(&"  ".repeat(depth.saturating_sub(closing)));
        formatted.push_str(line);
        formatted.push('\n');
        scan(line, &mut state, &mut depth);
    }
    formatted
}

/// Follows brackets, strings and comments to the end of the line.
fn scan(line: &str, state: &mut State, depth: &mut usize) {
    let mut rest = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = rest.next() {
        match (*state, quoted, c) {
            (State::Comment, _, '*') if rest.peek() == Some(&'/') => {
                rest.next();
                *state = State::Code;
            }
            (State::Code, true, '\\') => {
                rest.next();
            }
            (State::Code, _, '"') => quoted = !quoted,
            (State::Code, false, '#') => return,
            (State::Code, false, '/') if rest.peek() == Some(&'/') => return,
            (State::Code, false, '/') if rest.peek() == Some(&'*') => {
                rest.next();
                *state = State::Comment;
            }
            (State::Code, false, '{' | '[') => *depth += 1,
            (State::Code, false, '}' | ']') => *depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_policy_is_laid_out_by_its_brackets() {
        let cases = [
            (
                "path \"a\" {\ncapabilities = [\"read\"]\n}",
                "path \"a\" {\n  capabilities = [\"read\"]\n}\n",
            ),
            (
                "\n\n# c  \npath \"a\" {\n\n\n   capabilities = [\n\"read\", # }\n]\n\n}\n\n\n# end\n\n",
                "# c\npath \"a\" {\n\n  capabilities = [\n    \"read\", # }\n  ]\n}\n\n# end\n",
            ),
            (
                "path \"a{b\\\"{\" { capabilities = [] }\n# x\n",
                "path \"a{b\\\"{\" { capabilities = [] }\n# x\n",
            ),
            (
                "/* {\n   kept\n */\npath \"a\" {\n}",
                "/* {\n   kept\n */\npath \"a\" {\n}\n",
            ),
            ("", ""),
        ];
        for (text, want) in cases {
            assert_eq!(format(text), want, "{text}");
            assert_eq!(format(want), want, "laying out twice: {text}");
        }
        let here = "path \"a\" {\n policy = <<X\n  read\nX\n}";
        assert_eq!(format(here), here);
    }

    proptest! {
        #[test]
        fn laying_out_changes_blanks_only_and_once(text in "([ \\n{}\\[\\]#\"/*a=]{0,40})") {
            let once = format(&text);
            prop_assert_eq!(format(&once), once.clone());
            let words = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(words(&once), words(&text));
        }
    }
}
