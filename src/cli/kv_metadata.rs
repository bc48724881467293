//! What is known about a versioned secret, apart from its values.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::Failure;
use super::context::Context;
use super::kv::{Path, Place};
use super::operator::write;
use super::output::{Format, show, table};

/// `daypass kv metadata …`
#[derive(Subcommand)]
pub(super) enum Metadata {
    /// Show a secret's versions, limits and notes
    #[command(after_long_help = "Example:\n\n    $ daypass kv metadata get secret/app")]
    Get(Path),
    /// Change a secret's limits and notes
    #[command(long_about = PUT)]
    Put(Put),
    /// Remove a secret with all of its versions, for good
    #[command(after_long_help = "Example:\n\n    $ daypass kv metadata delete secret/app")]
    Delete(Path),
}

const PUT: &str = "\
Changes a secret's limits and notes; what is not given stays.

    $ daypass kv metadata put --max-versions 5 --custom-metadata owner=team-a secret/app
    $ daypass kv metadata put --delete-version-after 30d secret/app";

/// `daypass kv metadata put`.
#[derive(Args)]
pub(super) struct Put {
    #[command(flatten)]
    path: Path,
    /// How many versions are kept
    #[arg(long, value_name = "N")]
    max_versions: Option<u64>,
    /// Whether writes must name the newest version (--cas)
    #[arg(long, value_name = "BOOL")]
    cas_required: Option<bool>,
    /// How long a new version is kept
    #[arg(long, value_name = "DURATION")]
    delete_version_after: Option<String>,
    /// A note; may be repeated; replaces all notes
    #[arg(long, value_name = "K=V")]
    custom_metadata: Vec<String>,
}

impl Metadata {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Get(path) => get(context, &path.path).await,
            Self::Put(put) => put.run(context).await,
            Self::Delete(path) => {
                let path = path.path;
                let what = format!("delete the metadata of {path}");
                let place = Place::versioned(context, &path, &what).await?;
                let answer = place
                    .client
                    .delete(&place.api("metadata"))
                    .await
                    .map_err(|error| Failure::request(what, error))?;
                context.answer(&answer, &format!("Deleted with all versions: {path}"))
            }
        }
    }
}

async fn get(context: &mut Context<'_, '_>, path: &str) -> Result<(), Failure> {
    let what = format!("read the metadata of {path}");
    let place = Place::versioned(context, path, &what).await?;
    let answer = place
        .client
        .read(&place.api("metadata"), &[])
        .await
        .map_err(|error| Failure::request(what, error))?;
    if context.format == Format::Json || context.field.is_some() {
        return context.answer(&answer, "");
    }
    let mut fields = answer.data().clone();
    let versions = fields
        .as_object_mut()
        .and_then(|map| map.remove("versions"));
    context.value(&fields, answer.json())?;
    let mut rows: Vec<(u64, Vec<String>)> = versions
        .as_ref()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(version, facts)| {
            let fact = |name: &str| match facts.get(name) {
                Some(Value::String(text)) if text.is_empty() => "n/a".into(),
                Some(value) => show(value),
                None => "n/a".into(),
            };
            let row = vec![
                version.clone(),
                fact("created_time"),
                fact("deletion_time"),
                fact("destroyed"),
            ];
            // As numbers: 10 comes after 9.
            (version.parse().unwrap_or(u64::MAX), row)
        })
        .collect();
    rows.sort();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    let header = ["Version", "Created", "Deleted", "Destroyed"];
    context.print(&format!("\n{}", table(&header, &rows)))
}

impl Put {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.path;
        let what = format!("change the metadata of {path}");
        let notes = context.fields(&self.custom_metadata)?;
        let place = Place::versioned(context, &path, &what).await?;
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.into(), value);
            }
        };
        set("max_versions", self.max_versions.map(Value::from));
        set("cas_required", self.cas_required.map(Value::from));
        set(
            "delete_version_after",
            self.delete_version_after.map(Value::from),
        );
        set(
            "custom_metadata",
            (!notes.is_empty()).then_some(Value::Object(notes)),
        );
        if fields.is_empty() {
            return Err(Failure::usage(what, "nothing is given to change"));
        }
        let body = Value::Object(fields);
        let answer = write(&place.client, &what, &place.api("metadata"), body).await?;
        context.answer(&answer, &format!("Changed: {path}"))
    }
}
