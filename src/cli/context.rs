//! What a command runs with: its streams, settings and client.

use std::io::{self, Read as _};
use std::path::Path;

use daypass_contract::Secret;
use rustix::process::Signal;
use zeroize::Zeroizing;

use super::Failure;
use super::output::Format;
use crate::client::{Client, Environment, Overrides, TokenFile};

/// Larger than anything a command reads from a person, a pipe or a file.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// Where a command reads and writes.
pub(super) struct Streams<'a> {
    /// Answers.
    pub(super) out: &'a mut dyn io::Write,
    /// Everything else.
    pub(super) err: &'a mut dyn io::Write,
    /// Standard input.
    pub(super) input: &'a mut dyn io::Read,
    /// Whether a person looks at `out`.
    pub(super) out_is_terminal: bool,
    /// Whether a person types `input`.
    pub(super) input_is_terminal: bool,
}

/// What a command runs with.
pub(super) struct Context<'a, 's> {
    pub(super) streams: &'a mut Streams<'s>,
    pub(super) environment: &'a Environment<'a>,
    pub(super) overrides: Overrides,
    pub(super) format: Format,
    pub(super) field: Option<String>,
    /// For how long the server shall keep the answer behind a token that opens it once.
    pub(super) wrap_ttl: Option<String>,
}

impl Context<'_, '_> {
    /// A client as flags and environment have it.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::from_env(&self.overrides, self.environment)
            .map_err(|error| Failure::request("use these settings", error))
    }

    /// The same without the token in use: for requests that bring an authority of their own.
    pub(super) fn client_without_token(&self) -> Result<Client, Failure> {
        let overrides = Overrides {
            token_file: None,
            ..self.overrides.clone()
        };
        let environment = |name: &str| match name {
            "DAYPASS_TOKEN" | "VAULT_TOKEN" | "DAYPASS_TOKEN_FILE" | "HOME" => None,
            name => (self.environment)(name),
        };
        Client::from_env(&overrides, &environment)
            .map_err(|error| Failure::request("use these settings", error))
    }

    /// From now on the client's answers are wrapped, where the command line asks for that.
    pub(super) fn wrap(&self, client: &mut Client) -> Result<(), Failure> {
        match &self.wrap_ttl {
            Some(ttl) => client
                .set_wrap_ttl(ttl)
                .map_err(|error| Failure::request("use --wrap-ttl", error)),
            None => Ok(()),
        }
    }

    /// Where the token is kept between commands.
    pub(super) fn token_file(&self) -> Result<TokenFile, Failure> {
        match &self.overrides.token_file {
            Some(path) => Some(TokenFile::at(path)),
            None => TokenFile::usual(self.environment),
        }
        .ok_or_else(|| {
            Failure::usage("find the token file", "there is no home directory")
                .hint("set --token-file or DAYPASS_TOKEN_FILE")
        })
    }

    /// All of standard input.
    pub(super) fn read_input(&mut self) -> Result<Secret, Failure> {
        let mut bytes = Zeroizing::new(Vec::new());
        self.streams
            .input
            .take(MAX_INPUT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::usage("read standard input", error.to_string()))?;
        if bytes.len() as u64 > MAX_INPUT_BYTES {
            return Err(Failure::usage(
                "read standard input",
                format!("it is larger than {MAX_INPUT_BYTES} bytes"),
            ));
        }
        Ok(Secret::new(std::mem::take(&mut *bytes)))
    }

    /// A file, or standard input where it is `-`.
    pub(super) fn read_file(&mut self, path: &str) -> Result<Secret, Failure> {
        if path == "-" {
            return self.read_input();
        }
        let failed = |why: String| Failure::usage(format!("read {path}"), why);
        let mut bytes = Vec::new();
        std::fs::File::open(Path::new(path))
            .and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > MAX_INPUT_BYTES {
            return Err(failed(format!("it is larger than {MAX_INPUT_BYTES} bytes")));
        }
        Ok(Secret::new(bytes))
    }

    /// The same, where only text will do.
    pub(super) fn read_text(&mut self, path: &str) -> Result<String, Failure> {
        let secret = self.read_file(path)?;
        secret
            .expose_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::usage(format!("read {path}"), "it is not UTF-8 text"))
    }

    /// Secrets, one a line: as many lines as come in through a pipe, or one from a person, who does not
    /// see what they type.
    pub(super) fn read_secrets(&mut self, prompt: &str) -> Result<Vec<Secret>, Failure> {
        let input = if self.streams.input_is_terminal {
            self.ask(prompt)?
        } else {
            self.read_input()?
        };
        let lines: Vec<Secret> = input
            .expose()
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
            .map(Secret::new)
            .collect();
        if lines.is_empty() {
            return Err(Failure::usage(
                format!("read the {}", prompt.to_lowercase()),
                "nothing came in",
            )
            .hint("type it at the prompt, or pipe it in: `daypass … < FILE`"));
        }
        Ok(lines)
    }

    /// One secret.
    pub(super) fn read_secret(&mut self, prompt: &str) -> Result<Secret, Failure> {
        let mut lines = self.read_secrets(prompt)?;
        let first = lines.pop();
        match (first, lines.is_empty()) {
            (Some(secret), true) => Ok(secret),
            _ => Err(Failure::usage(
                format!("read the {}", prompt.to_lowercase()),
                "more than one line came in",
            )),
        }
    }

    /// One secret in which blanks count, such as a password: all that comes in, but for the line break at
    /// its end.
    pub(super) fn read_line(&mut self, prompt: &str) -> Result<Secret, Failure> {
        let input = if self.streams.input_is_terminal {
            self.ask(prompt)?
        } else {
            self.read_input()?
        };
        let failed = |why: &str| Failure::usage(format!("read the {}", prompt.to_lowercase()), why);
        match without_line_break(input.expose()) {
            b"" => Err(failed("nothing came in")
                .hint("type it at the prompt, or pipe it in: `daypass … < FILE`")),
            line if line.contains(&b'\n') => Err(failed("more than one line came in")),
            line => Ok(Secret::new(line)),
        }
    }

    /// Asks a person, who does not see what they type. Ctrl-C at the prompt leaves the terminal as it was.
    fn ask(&mut self, prompt: &str) -> Result<Secret, Failure> {
        use rustix::termios::{
            LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr,
        };
        let failed = |why: String| Failure::usage("ask on the terminal", why);
        let terminal = io::stdin();
        let before = tcgetattr(&terminal).map_err(|error| failed(error.to_string()))?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        // The keys that interrupt end the line instead, so that the terminal can be put right before the
        // signal that they stand for ends this process.
        let codes = &mut quiet.special_codes;
        let mut interrupts = Vec::new();
        for (key, ends_line, signal) in [
            (SpecialCodeIndex::VINTR, SpecialCodeIndex::VEOL, Signal::INT),
            (
                SpecialCodeIndex::VQUIT,
                SpecialCodeIndex::VEOL2,
                Signal::QUIT,
            ),
        ] {
            let code = std::mem::replace(&mut codes[key], NO_KEY);
            if code != NO_KEY {
                codes[ends_line] = code;
                interrupts.push((code, signal));
            }
        }
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)
            .map_err(|error| failed(error.to_string()))?;
        let _ = write!(self.streams.err, "{prompt} (not shown): ");
        let _ = self.streams.err.flush();
        let mut line = Zeroizing::new(Vec::new());
        let mut interrupted = None;
        let read = loop {
            let mut byte = [0];
            match self.streams.input.read(&mut byte) {
                Ok(0) => break Ok(()),
                Ok(_) if byte == [b'\n'] => break Ok(()),
                Ok(_) if line.len() as u64 >= MAX_INPUT_BYTES => break Ok(()),
                Ok(_) => {
                    interrupted = interrupts.iter().find(|(code, _)| byte == [*code]);
                    if interrupted.is_some() {
                        break Ok(());
                    }
                    line.extend_from_slice(&byte);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        // The terminal first, whatever came of it.
        let restored = tcsetattr(&terminal, OptionalActions::Flush, &before);
        read.map_err(|error| failed(error.to_string()))?;
        restored.map_err(|error| failed(error.to_string()))?;
        if let Some((_, signal)) = interrupted {
            let _ = writeln!(self.streams.err);
            interrupt(&terminal, *signal);
            // Only where the signal is ignored.
            return Err(failed("it was interrupted".into()));
        }
        Ok(Secret::new(std::mem::take(&mut *line)))
    }
}

/// What stands for a key that does nothing.
const NO_KEY: u8 = 0;

/// Does what the terminal would have done at the key: signals all who run in its foreground.
fn interrupt(terminal: &io::Stdin, signal: Signal) {
    use rustix::process::{getpgrp, getpid, kill_current_process_group, kill_process};
    let _ = match rustix::termios::tcgetpgrp(terminal) {
        Ok(group) if group == getpgrp() => kill_current_process_group(signal),
        _ => kill_process(getpid(), signal),
    };
}

/// The text without the line break that an editor or a shell leaves at its end.
pub(super) fn without_line_break(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.strip_suffix(b"\r").unwrap_or(text)
}
