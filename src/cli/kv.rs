//! Key-value secrets: one set of commands for mounts with and without versions.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::context::Context;
use super::generic::gone;
use super::kv_metadata::Metadata;
use super::operator::write;
use super::output::{Format, show, table};
use super::{Failure, fields};
use crate::client::Client;

/// `daypass kv …`
#[derive(Subcommand)]
pub(super) enum Kv {
    /// Show a secret
    #[command(long_about = GET)]
    Get(Get),
    /// Write a secret: a new version with these fields alone
    #[command(long_about = PUT)]
    Put(Put),
    /// Change some fields of a secret and keep the others, as a new version
    #[command(long_about = PATCH)]
    Patch(Put),
    /// Delete a secret, or versions of it; with versions it can be undeleted
    #[command(long_about = DELETE)]
    Delete(Delete),
    /// Bring deleted versions back
    #[command(after_long_help = "Example:\n\n    $ daypass kv undelete --versions 3 secret/app")]
    Undelete(Versions),
    /// Remove versions for good
    #[command(after_long_help = "Example:\n\n    $ daypass kv destroy --versions 1,2 secret/app")]
    Destroy(Versions),
    /// List the secrets below a path
    #[command(after_long_help = "Example:\n\n    $ daypass kv list secret/team-a")]
    List(Path),
    /// Show and change what is known about a secret: its versions, limits, notes
    #[command(subcommand)]
    Metadata(Metadata),
    /// Make an old version the newest, as a new version
    #[command(long_about = ROLLBACK)]
    Rollback(Rollback),
}

const GET: &str = "\
Shows a secret.

    $ daypass kv get secret/app
    $ daypass kv get --field password secret/app
    $ daypass kv get --version 2 secret/app";

const PUT: &str = "\
Writes a secret: a new version that holds these fields and no others.

    $ daypass kv put secret/app user=app password=@password.txt
    $ pwgen 32 1 | daypass kv put secret/app password=-
    $ daypass kv put --cas 0 secret/app @app.json       # only where nothing is there yet";

const PATCH: &str = "\
Changes the given fields of a secret and keeps the others, as a new version. Needs a mount with versions.

    $ daypass kv patch secret/app password=@password.txt";

const DELETE: &str = "\
Deletes the newest version of a secret, or the given ones. With versions, `daypass kv undelete` brings them back.

    $ daypass kv delete secret/app
    $ daypass kv delete --versions 1,2 secret/app";

const ROLLBACK: &str = "\
Writes an old version again, as the newest.

    $ daypass kv rollback --version 2 secret/app";

/// A secret's path.
#[derive(Args)]
pub(super) struct Path {
    /// The path as people write it, mount first: secret/app
    pub(super) path: String,
}

/// `daypass kv get`.
#[derive(Args)]
pub(super) struct Get {
    #[command(flatten)]
    path: Path,
    /// This version instead of the newest
    #[arg(long, value_name = "N")]
    version: Option<u64>,
}

/// `daypass kv put` and `patch`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Put {
    #[command(flatten)]
    path: Path,
    /// Fields
    #[arg(value_name = "K=V", required = true)]
    fields: Vec<String>,
    /// Only where this is the newest version; 0 where there is none
    #[arg(long, value_name = "VERSION")]
    cas: Option<u64>,
}

/// `daypass kv delete`.
#[derive(Args)]
pub(super) struct Delete {
    #[command(flatten)]
    path: Path,
    /// These versions instead of the newest
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    versions: Vec<u64>,
}

/// `daypass kv undelete` and `destroy`.
#[derive(Args)]
pub(super) struct Versions {
    #[command(flatten)]
    path: Path,
    /// Which versions
    #[arg(long, value_name = "N,…", value_delimiter = ',', required = true)]
    versions: Vec<u64>,
}

/// `daypass kv rollback`.
#[derive(Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    path: Path,
    /// The version to write again
    #[arg(long, value_name = "N")]
    version: u64,
}

/// Where a secret lies: its mount, and the path below it.
pub(super) struct Place {
    pub(super) client: Client,
    mount: String,
    rest: String,
    versioned: bool,
}

impl Place {
    /// Asks the server what is mounted at the path.
    pub(super) async fn find(context: &Context<'_, '_>, path: &str) -> Result<Self, Failure> {
        let client = context.client()?;
        let path = path.trim_start_matches('/');
        let what = format!("find the mount of {path}");
        let answer = client
            .read(&format!("sys/internal/ui/mounts/{path}"), &[])
            .await
            .map_err(|error| Failure::request(&what, error))?;
        let text = |name: &str| answer.data().get(name).and_then(Value::as_str);
        let mount = text("path").unwrap_or_default().to_owned();
        if text("type") != Some("kv") {
            return Err(Failure::refused(what, format!("{mount} is not a kv mount"))
                .hint("`daypass read` and `daypass write` work with every mount"));
        }
        let version = answer.data().pointer("/options/version").map(show);
        let below = format!("{path}/");
        let rest = below.strip_prefix(&mount).unwrap_or_default();
        Ok(Self {
            client,
            rest: rest.strip_suffix('/').unwrap_or(rest).to_owned(),
            versioned: version.as_deref() == Some("2"),
            mount,
        })
    }

    /// The same, for a command that only makes sense with versions.
    pub(super) async fn versioned(
        context: &Context<'_, '_>,
        path: &str,
        what: &str,
    ) -> Result<Self, Failure> {
        let place = Self::find(context, path).await?;
        if !place.versioned {
            let why = format!("{} keeps no versions", place.mount);
            return Err(Failure::refused(what, why)
                .hint("kv mounts made with --option version=2 keep them"));
        }
        Ok(place)
    }

    /// The API's path for one aspect of the secret.
    pub(super) fn api(&self, aspect: &str) -> String {
        if self.versioned {
            format!("{}{aspect}/{}", self.mount, self.rest)
        } else {
            format!("{}{}", self.mount, self.rest)
        }
    }
}

impl Kv {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Get(get) => get.run(context).await,
            Self::Put(put) => put.run(context).await,
            Self::Patch(put) => put.patch(context).await,
            Self::Delete(delete) => delete.run(context).await,
            Self::Undelete(versions) => versions.run(context, "undelete").await,
            Self::Destroy(versions) => versions.run(context, "destroy").await,
            Self::List(path) => {
                let place = Place::find(context, &path.path).await?;
                let answer = place
                    .client
                    .list(&place.api("metadata"))
                    .await
                    .map_err(|error| Failure::request(format!("list {}", path.path), error))?;
                context.keys(&answer)
            }
            Self::Metadata(metadata) => metadata.run(context).await,
            Self::Rollback(rollback) => rollback.run(context).await,
        }
    }
}

impl Get {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("read {path}");
        let mut place = match self.version {
            Some(_) => Place::versioned(context, &path, "read an old version").await?,
            None => Place::find(context, &path).await?,
        };
        let version = self.version.map(|version| version.to_string());
        let query: Vec<(&str, &str)> = version.iter().map(|v| ("version", v.as_str())).collect();
        context.wrap(&mut place.client)?;
        let answer = place
            .client
            .read(&place.api("data"), &query)
            .await
            .map_err(|error| Failure::request(&what, error))?;
        if !place.versioned || context.wrap_ttl.is_some() {
            return context.answer(&answer, "");
        }
        let data = answer.data().get("data").unwrap_or(&Value::Null);
        if data.is_null() {
            let metadata = answer.data().get("metadata").unwrap_or(&Value::Null);
            let why = match metadata.get("destroyed") {
                Some(Value::Bool(true)) => "this version was destroyed",
                _ => "this version was deleted",
            };
            // What is left of it.
            if context.field.is_none() {
                context.value(metadata, answer.json())?;
            }
            return Err(Failure::refused(what, why)
                .hint("`daypass kv metadata get` shows which versions there are"));
        }
        if context.format == Format::Table
            && context.field.is_none()
            && let Some(metadata) = answer.data().get("metadata").and_then(Value::as_object)
        {
            let rows: Vec<Vec<String>> = metadata
                .iter()
                .filter(|(_, value)| !value.is_null() && value.as_str() != Some(""))
                .map(|(name, value)| vec![name.clone(), show(value)])
                .collect();
            context.print(&format!("{}\n", table(&["Metadata", "Value"], &rows)))?;
        }
        context.value(data, answer.json())
    }
}

impl Put {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("write {path}");
        let fields = context.fields(&self.fields)?;
        let place = match self.cas {
            Some(_) => Place::versioned(context, &path, "compare versions").await?,
            None => Place::find(context, &path).await?,
        };
        let body = if place.versioned {
            json!({"data": fields, "options": cas(self.cas)})
        } else {
            Value::Object(fields)
        };
        let answer = write(&place.client, &what, &place.api("data"), body).await?;
        context.answer(&answer, &format!("Written: {path}"))
    }

    async fn patch(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("patch {path}");
        let fields = context.fields(&self.fields)?;
        let place = Place::versioned(context, &path, &what).await?;
        let mut body = Map::new();
        body.insert("data".into(), Value::Object(fields));
        body.insert("options".into(), cas(self.cas));
        let answer = place
            .client
            .patch(&place.api("data"), &body)
            .await
            .map_err(|error| Failure::request(what, error))?;
        context.answer(&answer, &format!("Changed: {path}"))
    }
}

fn cas(version: Option<u64>) -> Value {
    match version {
        Some(version) => json!({"cas": version}),
        None => json!({}),
    }
}

impl Delete {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("delete {path}");
        if !self.versions.is_empty() {
            let versions = Versions {
                path: Path { path },
                versions: self.versions,
            };
            return versions.run(context, "delete").await;
        }
        let place = Place::find(context, &path).await?;
        let answer = place
            .client
            .delete(&place.api("data"))
            .await
            .map_err(|error| Failure::request(what, error))?;
        context.answer(&answer, &format!("Deleted: {path}"))
    }
}

impl Versions {
    async fn run(self, context: &mut Context<'_, '_>, verb: &str) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("{verb} versions of {path}");
        let place = Place::versioned(context, &path, &what).await?;
        let body = json!({"versions": self.versions});
        let answer = write(&place.client, &what, &place.api(verb), body).await?;
        context.answer(&answer, &format!("Done ({verb}): {path}"))
    }
}

impl Rollback {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("roll back {path}");
        let place = Place::versioned(context, &path, &what).await?;
        let read = async |query: &[(&str, &str)]| {
            place
                .client
                .read(&place.api("data"), query)
                .await
                .map_err(|error| Failure::request(&what, error))
        };
        let old = read(&[("version", &self.version.to_string())]).await?;
        gone(old.status, &what)?;
        let data = old.data().get("data").cloned().unwrap_or_default();
        let newest = read(&[]).await?;
        // Whoever wrote in between must not be undone unseen.
        let version = newest
            .data()
            .pointer("/metadata/version")
            .and_then(Value::as_u64);
        let body = json!({"data": data, "options": cas(version)});
        let answer = write(&place.client, &what, &place.api("data"), body).await?;
        context.answer(&answer, &format!("Written: {path}"))
    }
}
