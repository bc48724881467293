//! Leases: show, renew, revoke.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failure;
use super::context::Context;
use super::operator::write;

/// `daypass lease …`
#[derive(Subcommand)]
pub(super) enum Lease {
    /// List leases below a path
    #[command(long_about = LIST)]
    List(List),
    /// Show when a lease was given and when it ends
    #[command(after_long_help = "Example:\n\n    $ daypass lease lookup db/creds/readonly/4Vd…")]
    Lookup(Id),
    /// Let a lease last longer
    #[command(long_about = RENEW)]
    Renew(Renew),
    /// Revoke a lease, or all of them below a path
    #[command(long_about = REVOKE)]
    Revoke(Revoke),
}

const LIST: &str = "\
Lists the leases below a path, one level at a time.

    $ daypass lease list db/creds/readonly";

const RENEW: &str = "\
Lets a lease last longer, within the maximum of its role and mount.

    $ daypass lease renew --increment 1h db/creds/readonly/4Vd…";

const REVOKE: &str = "\
Revokes a lease: the credential stops working. With --prefix, all leases below a path. --force forgets leases even
where the upstream cannot be reached; what they stood for may then live on, so it is for upstreams that are gone.

    $ daypass lease revoke db/creds/readonly/4Vd…
    $ daypass lease revoke --prefix db/creds/readonly
    $ daypass lease revoke --prefix --force db/";

/// `daypass lease list`.
#[derive(Args)]
pub(super) struct List {
    /// A path; without it, the top
    #[arg(default_value = "")]
    prefix: String,
}

/// One lease.
#[derive(Args)]
pub(super) struct Id {
    /// The lease's id, such as db/creds/readonly/4Vd…
    #[arg(value_name = "LEASE_ID")]
    id: String,
}

/// `daypass lease renew`.
#[derive(Args)]
pub(super) struct Renew {
    #[command(flatten)]
    id: Id,
    /// How long from now, such as 1h
    #[arg(long, value_name = "DURATION")]
    increment: Option<String>,
}

/// `daypass lease revoke`.
#[derive(Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    id: Id,
    /// Take the id as a path and revoke everything below it
    #[arg(long)]
    prefix: bool,
    /// Forget the leases even where revoking fails
    #[arg(long, requires = "prefix")]
    force: bool,
    /// Wait until it is done
    #[arg(long)]
    sync: bool,
}

impl Lease {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let client = context.client()?;
        match self {
            Self::List(list) => {
                let path = match list.prefix.trim_matches('/') {
                    "" => "sys/leases/lookup/".into(),
                    prefix => format!("sys/leases/lookup/{prefix}/"),
                };
                let answer = client
                    .list(&path)
                    .await
                    .map_err(|error| Failure::request("list leases", error))?;
                context.keys(&answer)
            }
            Self::Lookup(id) => {
                let body = json!({"lease_id": id.id});
                let answer = write(&client, "look up the lease", "sys/leases/lookup", body).await?;
                context.answer(&answer, "")
            }
            Self::Renew(renew) => {
                let mut body = json!({"lease_id": renew.id.id});
                if let (Some(increment), Some(map)) = (renew.increment, body.as_object_mut()) {
                    map.insert("increment".into(), increment.into());
                }
                let answer = write(&client, "renew the lease", "sys/leases/renew", body).await?;
                context.value(answer.json(), answer.json())
            }
            Self::Revoke(revoke) => {
                let id = revoke.id.id.trim_end_matches('/');
                let (path, body) = match (revoke.prefix, revoke.force) {
                    (true, true) => (format!("sys/leases/revoke-force/{id}"), json!({})),
                    (true, false) => (
                        format!("sys/leases/revoke-prefix/{id}"),
                        json!({"sync": revoke.sync}),
                    ),
                    (false, _) => (
                        "sys/leases/revoke".into(),
                        json!({"lease_id": id, "sync": revoke.sync}),
                    ),
                };
                let answer = write(&client, "revoke", &path, body).await?;
                context.answer(&answer, &format!("Revoked: {id}"))
            }
        }
    }
}
