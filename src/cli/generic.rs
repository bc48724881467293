//! The verbs of the API, for any path: read, write, patch, list, delete.

use clap::Args;

use super::context::Context;
use super::{Failure, fields};

pub(super) const READ: &str = "\
Reads what stands at a path. Reading may issue: a database role answers with new credentials and their lease.

    $ daypass read sys/mounts
    $ daypass read --field password db/creds/readonly
    $ daypass read secret/data/app version=2          # fields become the query";

pub(super) const WRITE: &str = "\
Writes fields to a path.

    $ daypass write db/roles/readonly db_name=orders creation_statements=@role.sql default_ttl=15m
    $ pass show orders | daypass write db/config/orders username=daypass password=-
    $ daypass write auth/approle/login @login.json
    $ daypass write -f pki/crl/rotate                   # no fields
    $ daypass write --wrap-ttl 5m -f auth/approle/role/web/secret-id";

pub(super) const PATCH: &str = "\
Changes the given fields of what stands at a path and leaves the others (RFC 7396). Not every path can do that.

    $ daypass patch pki/issuer/default leaf_not_after_behavior=truncate";

pub(super) const LIST: &str = "\
Lists the names below a path. A name that ends in / has more below it.

    $ daypass list pki/roles
    $ daypass list --format json secret/metadata/team-a";

pub(super) const DELETE: &str = "\
Deletes what stands at a path.

    $ daypass delete db/roles/readonly";

/// `daypass read`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Read {
    /// The path, such as db/creds/readonly
    path: String,
    /// Fields of the query
    #[arg(value_name = "K=V")]
    fields: Vec<String>,
}

impl Read {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let what = format!("read {}", self.path);
        let query = context.query(&self.fields)?;
        let query: Vec<(&str, &str)> = query
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        let mut client = context.client()?;
        context.wrap(&mut client)?;
        let answer = client
            .read(&self.path, &query)
            .await
            .map_err(|error| Failure::request(&what, error))?;
        context.answer(&answer, "Nothing is there to show.")?;
        gone(answer.status, &what)
    }
}

/// What is left of something deleted was printed; it is still not there.
pub(super) fn gone(status: u16, what: &str) -> Result<(), Failure> {
    if status == 404 {
        return Err(Failure::refused(what, "it was deleted"));
    }
    Ok(())
}

/// `daypass write`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Write {
    /// The path, such as db/roles/readonly
    path: String,
    /// Fields
    #[arg(value_name = "K=V")]
    fields: Vec<String>,
    /// Write although there are no fields
    #[arg(long, short)]
    force: bool,
}

impl Write {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let what = format!("write {}", self.path);
        if self.fields.is_empty() && !self.force {
            return Err(Failure::usage(what, "there are no fields")
                .hint("give some as k=v, or say --force to write without any"));
        }
        let fields = context.fields(&self.fields)?;
        let mut client = context.client()?;
        context.wrap(&mut client)?;
        let answer = client
            .write(&self.path, &fields)
            .await
            .map_err(|error| Failure::request(what, error))?;
        context.answer(&answer, &format!("Written: {}", self.path))
    }
}

/// `daypass patch`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Patch {
    /// The path
    path: String,
    /// Fields to change
    #[arg(value_name = "K=V", required = true)]
    fields: Vec<String>,
}

impl Patch {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let fields = context.fields(&self.fields)?;
        let mut client = context.client()?;
        context.wrap(&mut client)?;
        let answer = client
            .patch(&self.path, &fields)
            .await
            .map_err(|error| Failure::request(format!("patch {}", self.path), error))?;
        context.answer(&answer, &format!("Changed: {}", self.path))
    }
}

/// `daypass list`.
#[derive(Args)]
pub(super) struct List {
    /// The path, such as pki/roles
    path: String,
}

impl List {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let answer = context
            .client()?
            .list(&self.path)
            .await
            .map_err(|error| Failure::request(format!("list {}", self.path), error))?;
        context.keys(&answer)
    }
}

/// `daypass delete`.
#[derive(Args)]
pub(super) struct Delete {
    /// The path, such as db/roles/readonly
    path: String,
}

impl Delete {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let answer = context
            .client()?
            .delete(&self.path)
            .await
            .map_err(|error| Failure::request(format!("delete {}", self.path), error))?;
        context.answer(&answer, &format!("Deleted: {}", self.path))
    }
}
