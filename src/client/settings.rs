//! Where the client connects and as whom: flags first, then the environment, then the token file.

use std::path::PathBuf;

use daypass_contract::Secret;

use super::error::ClientError;
use super::file::TokenFile;

/// Reads a variable of the environment; an argument, so that tests have an environment of their own.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What the command line says; it comes before the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `https://host:port`, `http://…` or `unix:///path`.
    pub address: Option<String>,
    /// The file to read the token from.
    pub token_file: Option<PathBuf>,
    /// The authorities to trust instead of the system's, in PEM.
    pub ca_cert: Option<PathBuf>,
    /// The client's own certificate, in PEM.
    pub client_cert: Option<PathBuf>,
    /// The key of `client_cert`, in PEM; that file may hold it too.
    pub client_key: Option<PathBuf>,
}

/// Where the client connects and as whom.
#[derive(Default)]
pub struct Settings {
    /// `https://host:port`, `http://…` or `unix:///path`.
    pub address: String,
    /// Whom to speak as; `None` for requests that need no token.
    pub token: Option<Secret>,
    /// The authorities to trust instead of the system's, in PEM.
    pub ca_cert: Option<PathBuf>,
    /// The client's own certificate, in PEM.
    pub client_cert: Option<PathBuf>,
    /// The key of `client_cert`, in PEM; that file may hold it too.
    pub client_key: Option<PathBuf>,
}

impl Settings {
    /// Puts flags, environment and token file together. A `DAYPASS_` variable comes before the `VAULT_`
    /// variable of the same meaning; an empty one counts as not set.
    ///
    /// # Errors
    /// [`ClientError::Settings`] where the token file cannot be used.
    pub fn read(overrides: &Overrides, environment: &Environment<'_>) -> Result<Self, ClientError> {
        let either = |name: &str| {
            [format!("DAYPASS_{name}"), format!("VAULT_{name}")]
                .iter()
                .find_map(|name| environment(name).filter(|value| !value.is_empty()))
        };
        let address = overrides.address.clone().or_else(|| either("ADDR"));
        let file = |given: &Option<PathBuf>, name: &str| {
            given.clone().or_else(|| either(name).map(PathBuf::from))
        };
        let token = match &overrides.token_file {
            Some(path) => Some(read_token(&TokenFile::at(path))?.ok_or_else(|| {
                ClientError::settings(format!("there is no token file {}", path.display()))
            })?),
            None => match (either("TOKEN"), TokenFile::usual(environment)) {
                (Some(token), _) => Some(Secret::new(token)),
                (None, Some(file)) => read_token(&file)?,
                (None, None) => None,
            },
        };
        Ok(Self {
            address: address.unwrap_or_else(|| "https://127.0.0.1:8200".into()),
            token,
            ca_cert: file(&overrides.ca_cert, "CACERT"),
            client_cert: file(&overrides.client_cert, "CLIENT_CERT"),
            client_key: file(&overrides.client_key, "CLIENT_KEY"),
        })
    }
}

fn read_token(file: &TokenFile) -> Result<Option<Secret>, ClientError> {
    file.read()
        .map_err(|error| ClientError::settings(format!("token file: {error}")))
}
