//! `daypass login`: gets a token, by an auth method or one that you have, and keeps it for later commands.
//!
//! **Invariant:** the token in use goes with no login, and a login that fails leaves the token file as it was.

use std::path::Path;

use clap::{Args, ValueEnum};
use daypass_contract::Secret;
use serde_json::{Map, Value};

use super::auth::below_auth;
use super::context::{Context, without_line_break};
use super::{Failure, fields};
use crate::client::{ClientError, TokenFile};

pub(super) const ABOUT: &str = "\
Logs in and keeps the token in ~/.daypass/token (mode 0600) for later commands. Without --method, you give a token,
which is checked. With it, an auth method of the server makes one:

    $ daypass login
    $ daypass login --method userpass username=ann
    $ daypass login --method approle --path ci role_id=… secret_id=@secret-id
    $ daypass login --method jwt --path github role=deploy jwt=@token.jwt
    $ daypass login --method kubernetes role=web
    $ daypass login --method cert --client-cert web.pem --client-key web.key

What is secret in a login (password, secret_id, jwt) is best left out: it is asked for at a prompt that does not show it,
or read from a pipe. On Kubernetes it is the pod's own token.

    $ pass show daypass | daypass login --method userpass username=ann
    $ daypass unwrap @wrapped --field secret_id | daypass login --method approle role_id=…

For a program that keeps the token itself, print it and store nothing:

    $ daypass login --method approle role_id=… secret_id=@secret-id --no-store --field client_token";

/// Where a pod finds the token of its service account.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How to log in.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// A token that you have
    Token,
    /// A password: username=NAME
    Userpass,
    /// A secret id: role_id=ID
    Approle,
    /// A token that somebody else signed: role=NAME
    Jwt,
    /// The certificate of --client-cert: name=NAME where one entry shall match
    Cert,
    /// The token of a service account: role=NAME
    Kubernetes,
}

/// `daypass login`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Login {
    /// How
    #[arg(long, short, value_enum, value_name = "METHOD", default_value_t = Method::Token)]
    method: Method,
    /// Where the method is mounted below auth/; by default at its name
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Leave the token file as it is, and print the token
    #[arg(long)]
    no_store: bool,
    /// Fields of the login
    #[arg(value_name = "K=V")]
    fields: Vec<String>,
}

impl Login {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        if self.method == Method::Token {
            return self.by_token(context).await;
        }
        let (what, secret) = (self.method.what(), self.method.secret());
        if let Some((name, _)) = secret
            && self.fields.iter().any(|field| fields::shows(field, name))
        {
            context.note(&format!(
                "warning: every process of the machine can read arguments, and the shell keeps them; leave \
                 {name} out to be asked, or write {name}=@FILE or {name}=-"
            ));
        }
        let mut given = context.fields(&self.fields)?;
        for value in given.values_mut() {
            if let Value::String(text) = value {
                text.truncate(without_line_break(text.as_bytes()).len());
            }
        }
        let path = self.endpoint(&mut given)?;
        let mut client = context.client_without_token()?;
        if self.method == Method::Cert && !client.has_certificate() {
            return Err(Failure::usage(what, "there is no certificate to show")
                .hint("--client-cert FILE --client-key FILE, or DAYPASS_CLIENT_CERT and DAYPASS_CLIENT_KEY"));
        }
        if let Some((name, prompt)) = secret
            && !given.contains_key(name)
        {
            let pod = self.method == Method::Kubernetes && Path::new(POD_TOKEN).exists();
            let secret = if pod {
                context.read_file(POD_TOKEN)?
            } else {
                context.read_line(prompt)?
            };
            let text = secret
                .expose_str()
                .ok_or_else(|| Failure::usage(what, format!("the {name} is not text")))?;
            given.insert(name.into(), text.into());
        }
        if self.method == Method::Approle {
            // `secret_id=` says that the role wants none.
            given.retain(|name, value| name != "secret_id" || value.as_str() != Some(""));
        }
        context.wrap(&mut client)?;
        let answer = client
            .write(&path, &given)
            .await
            .map_err(|error| refused(what, &path, error))?;
        let token = answer.json().pointer("/auth/client_token");
        match token.and_then(Value::as_str) {
            Some(token) if !self.no_store && context.wrap_ttl.is_none() => {
                let token = Secret::new(token);
                let file = context.token_file()?;
                if let Err(failure) = store(context, &file, &token) {
                    // Nobody will use it: it need not live.
                    if client.set_token(&token).is_ok() {
                        let _ = client.write("auth/token/revoke-self", &Map::new()).await;
                    }
                    return Err(failure);
                }
                super::token::show(context, &answer)
            }
            Some(_) => context.answer(&answer, ""),
            None if answer.json().get("wrap_info").is_some_and(Value::is_object) => {
                context.answer(&answer, "")
            }
            None => Err(Failure::refused(what, "the answer holds no token")),
        }
    }

    /// Where the login goes. What belongs into the path is taken out of the fields.
    fn endpoint(&self, given: &mut Map<String, Value>) -> Result<String, Failure> {
        let what = self.method.what();
        let mount = match &self.path {
            Some(path) => below_auth(path),
            None => self.method.mount(),
        };
        let needed = self.method.needed();
        if let Some(name) = needed
            && given
                .get(name)
                .is_none_or(|value| value.as_str() == Some(""))
        {
            return Err(Failure::usage(what, format!("{name} is missing"))
                .hint(format!("give it as {name}=VALUE")));
        }
        if self.method != Method::Userpass {
            return Ok(format!("auth/{mount}/login"));
        }
        let name = given.remove("username");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || name.contains('/') {
            return Err(Failure::usage(what, "username is not the name of one user"));
        }
        Ok(format!("auth/{mount}/login/{name}"))
    }

    /// Checks a token that somebody has and keeps it.
    async fn by_token(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let plain =
            |field: &String| !matches!(field.as_str(), "token=-") && !field.starts_with("token=@");
        if self.fields.iter().any(plain) {
            return Err(Failure::usage(
                "take a token as an argument",
                "every process of the machine could read it, and the shell's history keeps it",
            )
            .hint("run `daypass login` and type it, or pipe it in: `daypass login < FILE`"));
        }
        if self.path.is_some() || context.wrap_ttl.is_some() {
            return Err(Failure::usage(
                "log in by a token",
                "--path and --wrap-ttl are for logins that make one",
            )
            .hint("say which with --method"));
        }
        let file = context.token_file()?;
        let mut client = context.client_without_token()?;
        let token = match self
            .fields
            .first()
            .and_then(|field| field.strip_prefix("token=@"))
        {
            Some(file) => Secret::new(context.read_text(file)?.trim()),
            None => context.read_secret("Token")?,
        };
        client
            .set_token(&token)
            .map_err(|error| Failure::request("use this token", error))?;
        let answer = client
            .read("auth/token/lookup-self", &[])
            .await
            .map_err(|error| Failure::request("check the token", error))?;
        if !self.no_store {
            store(context, &file, &token)?;
        }
        super::token::show(context, &answer)
    }
}

impl Method {
    /// Completes "cannot …".
    fn what(self) -> &'static str {
        match self {
            Self::Token => "log in by a token",
            Self::Userpass => "log in by userpass",
            Self::Approle => "log in by approle",
            Self::Jwt => "log in by jwt",
            Self::Cert => "log in by certificate",
            Self::Kubernetes => "log in by kubernetes",
        }
    }

    /// Where it is mounted where nobody says.
    fn mount(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Userpass => "userpass",
            Self::Approle => "approle",
            Self::Jwt => "jwt",
            Self::Cert => "cert",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// The field that no login goes without.
    fn needed(self) -> Option<&'static str> {
        match self {
            Self::Userpass => Some("username"),
            Self::Approle => Some("role_id"),
            Self::Kubernetes => Some("role"),
            // A mount may have a role for those who name none.
            Self::Token | Self::Jwt | Self::Cert => None,
        }
    }

    /// The field that is a secret, and what it is called at a prompt.
    fn secret(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Userpass => Some(("password", "Password")),
            Self::Approle => Some(("secret_id", "Secret ID")),
            Self::Jwt => Some(("jwt", "JWT")),
            Self::Kubernetes => Some(("jwt", "Service account token")),
            Self::Token | Self::Cert => None,
        }
    }
}

/// Keeps the token, and says where.
fn store(context: &mut Context<'_, '_>, file: &TokenFile, token: &Secret) -> Result<(), Failure> {
    file.write(token)
        .map_err(|error| Failure::usage("keep the token", error.to_string()))?;
    for name in ["DAYPASS_TOKEN", "VAULT_TOKEN"] {
        if (context.environment)(name).is_some_and(|value| !value.is_empty()) {
            context.note(&format!(
                "warning: {name} is set and comes before the token file"
            ));
        }
    }
    context.note(&format!("The token is kept in {}.", file.path().display()));
    Ok(())
}

/// A login brings no token: what a denial usually hints at does not fit.
fn refused(what: &str, path: &str, error: ClientError) -> Failure {
    let error = match error {
        ClientError::Denied { errors, .. } => ClientError::Denied {
            errors,
            anonymous: false,
        },
        other => other,
    };
    let elsewhere = matches!(
        error,
        ClientError::Denied { .. } | ClientError::NotFound { .. }
    );
    let failure = Failure::request(what, error);
    if elsewhere {
        failure.hint(format!(
            "is the method mounted there ({path})? --path says where; `daypass auth list` shows it to those who may"
        ))
    } else {
        failure
    }
}
