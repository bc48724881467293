//! Policies: list, read, write, delete, and a check before that.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::operator::write;
use super::output::Format;
use super::{Failure, output, policy_file};

/// `daypass policy …`
#[derive(Subcommand)]
pub(super) enum Policy {
    /// List policies
    #[command(after_long_help = "Example:\n\n    $ daypass policy list")]
    List,
    /// Show a policy's rules
    #[command(after_long_help = "Example:\n\n    $ daypass policy read ci > ci.hcl")]
    Read(Name),
    /// Write a policy's rules from a file
    #[command(long_about = WRITE)]
    Write(Write),
    /// Delete a policy; leases it allowed are looked at again
    #[command(after_long_help = "Example:\n\n    $ daypass policy delete ci")]
    Delete(Name),
    /// Check policy files without a server
    #[command(long_about = policy_file::CHECK)]
    Check(policy_file::Files),
    /// Lay policy files out without a server
    #[command(long_about = policy_file::FMT)]
    Fmt(policy_file::Files),
}

const WRITE: &str = "\
Writes a policy's rules from a file, or from standard input (-).

    $ daypass policy write ci ci.hcl
    $ echo 'path \"secret/data/ci/*\" { capabilities = [\"read\"] }' | daypass policy write ci -";

/// A policy.
#[derive(Args)]
pub(super) struct Name {
    /// The policy's name
    name: String,
}

/// `daypass policy write`.
#[derive(Args)]
pub(super) struct Write {
    /// The policy's name
    name: String,
    /// The file with its rules; - for standard input
    file: String,
}

impl Policy {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::List => {
                let answer = context
                    .client()?
                    .list("sys/policies/acl")
                    .await
                    .map_err(|error| Failure::request("list policies", error))?;
                context.keys(&answer)
            }
            Self::Read(Name { name }) => {
                let what = format!("read the policy {name}");
                let answer = context
                    .client()?
                    .read(&format!("sys/policies/acl/{name}"), &[])
                    .await
                    .map_err(|error| Failure::request(&what, error))?;
                let fields = output::fields(answer.json());
                match (context.format, &context.field, fields.get("policy")) {
                    (Format::Table, None, Some(Value::String(rules))) => {
                        let end = if rules.ends_with('\n') { "" } else { "\n" };
                        context.print(&format!("{rules}{end}"))
                    }
                    _ => context.answer(&answer, ""),
                }
            }
            Self::Write(Write { name, file }) => {
                let what = format!("write the policy {name}");
                let rules = context.read_text(&file)?;
                let client = context.client()?;
                let target = format!("sys/policies/acl/{name}");
                let answer = write(&client, &what, &target, json!({"policy": rules})).await?;
                context.answer(&answer, &format!("Written: policy {name}"))
            }
            Self::Delete(Name { name }) => {
                let answer = context
                    .client()?
                    .delete(&format!("sys/policies/acl/{name}"))
                    .await
                    .map_err(|error| {
                        Failure::request(format!("delete the policy {name}"), error)
                    })?;
                context.answer(&answer, &format!("Deleted: policy {name}"))
            }
            Self::Check(files) => files.check(context),
            Self::Fmt(files) => files.format(context),
        }
    }
}
