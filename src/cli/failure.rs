//! Why a command failed: what, why, and what to do about it.

use std::fmt;

use crate::client::ClientError;

/// What the process's exit code says; see `daypass help exit-codes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Nobody reads the output any more (`| head`): there is nothing left to do.
    Closed = 0,
    /// Nothing was changed: arguments, a file or the configuration cannot be used.
    Usage = 1,
    /// The server said no or failed, or its answer cannot be used.
    Refused = 2,
    /// The server cannot answer now.
    Later = 3,
}

/// Why a command failed. It is printed once, by the caller of all commands.
#[derive(Debug)]
pub struct Failure {
    /// Completes "cannot …"; empty where the command has said everything already.
    what: String,
    why: String,
    hint: Option<String>,
    code: Code,
}

impl Failure {
    /// Nothing was changed, because what was given cannot be used.
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            hint: None,
            code: Code::Usage,
        }
    }

    /// The server's answer is a no, or cannot be used.
    pub fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            code: Code::Refused,
            ..Self::usage(what, why)
        }
    }

    /// Ends with `code` after everything was said.
    pub fn silent(code: Code) -> Self {
        Self {
            code,
            ..Self::usage("", "")
        }
    }

    /// A request failed; `what` completes "cannot …".
    pub fn request(what: impl Into<String>, error: ClientError) -> Self {
        let (code, hint) = match &error {
            ClientError::Settings(_) => (Code::Usage, None),
            ClientError::Unreachable { .. } => (
                Code::Later,
                Some(
                    "is the server running there? Set the address with --address or DAYPASS_ADDR, and a \
                     private authority with --ca-cert or DAYPASS_CACERT",
                ),
            ),
            ClientError::Sealed { .. } => (
                Code::Later,
                Some("holders of key shares run `daypass operator unseal`"),
            ),
            ClientError::Unavailable { .. } => (Code::Later, Some("try again later")),
            ClientError::Denied { .. } => (
                Code::Refused,
                Some(
                    "`daypass token lookup` shows the token in use, `daypass token capabilities PATH` what it \
                     may do; `daypass login` takes another",
                ),
            ),
            ClientError::NotFound { .. } | ClientError::Invalid { .. } => (Code::Refused, None),
            ClientError::ServerFault { .. } => (Code::Refused, Some("the server's log says more")),
        };
        Self {
            what: what.into(),
            why: error.to_string(),
            hint: hint.map(str::to_owned),
            code,
        }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The process's exit code.
    pub fn code(&self) -> u8 {
        self.code as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.is_empty() {
            return Ok(());
        }
        writeln!(f, "error: cannot {}: {}", self.what, self.why)?;
        match &self.hint {
            Some(hint) => writeln!(f, " hint: {hint}"),
            None => Ok(()),
        }
    }
}
