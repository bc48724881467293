//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Where something stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// In characters, counted from 1; 0 for the file as a whole.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// One problem. Whoever meets it corrects the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// The key at fault (`mounts[0].type`); empty for the file as a whole.
    pub key: String,
    /// What is wrong and what to write instead, without the value that was found.
    pub problem: String,
    /// The nearest valid name, where one name was expected and one is near.
    pub nearest: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        match &self.nearest {
            Some(name) => write!(f, "; did you mean \"{name}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Where something was declared, for problems that show only when it is put to use.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where.
    pub place: Place,
    /// The key path of the declaration, such as `mounts[0]`.
    pub key: String,
}

impl Origin {
    /// A problem with one field of the declaration, or with all of it where `field` is empty.
    pub fn error(&self, field: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            place: self.place.clone(),
            key: match field {
                "" => self.key.clone(),
                field => format!("{}.{field}", self.key),
            },
            problem: problem.into(),
            nearest: None,
        }
    }
}

/// Every problem of a configuration, in the order of the files. Never empty when returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
