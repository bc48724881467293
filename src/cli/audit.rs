//! Looks at an audit log on this machine (proves that it is whole, reads it as it grows), and asks a server for
//! the devices that follow its log.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failure;
use super::context::Context;
use super::operator::write;
use super::output::{Format, fields, show};
use crate::audit::{self, Expect, Follower, Head, PublicKey, VerifyError};

/// How long `--follow` waits for new records.
const POLL: Duration = Duration::from_millis(500);

/// `daypass audit …`
#[derive(Subcommand)]
pub(super) enum Audit {
    /// Prove that nothing in a log was changed, removed or moved (exit code 2 where something was)
    #[command(long_about = VERIFY)]
    Verify(Verify),
    /// Show the newest records of a log
    #[command(long_about = TAIL)]
    Tail(Tail),
    /// List what follows the server's log: files, syslog, sockets
    #[command(long_about = LIST)]
    List(List),
    /// Let a file, the syslog or a socket follow the server's log
    #[command(long_about = ENABLE)]
    Enable(Enable),
    /// Stop a device; the log goes on
    #[command(after_long_help = "Example:\n\n    $ daypass audit disable siem")]
    Disable(Path),
    /// Hash a value as the log does, to search for it
    #[command(long_about = HASH)]
    Hash(Path),
}

const LIST: &str = "\
Lists what follows the server's log. With a path, shows how far behind that device is and why.

    $ daypass audit list
    $ daypass audit list siem
    $ daypass audit list --field lag_records siem";

const ENABLE: &str = "\
Lets a file, the syslog of the server's machine or a socket follow the server's log: it gets what is recorded from now
on, by default under its type's name. The server's configuration says which files and addresses may be named here.

    $ daypass audit enable file file_path=audit.log
    $ daypass audit enable syslog tag=daypass facility=authpriv
    $ daypass audit enable --path siem socket address=siem.example.org:514 socket_type=tcp";

const HASH: &str = "\
Prints the hash that stands in the log, and in what devices write, in place of a value. The value comes from standard
input or a prompt.

    $ daypass audit hash --field hash local < token";

const VERIFY: &str = "\
Reads a log and proves that no record in it was changed, removed or moved. It needs neither the server nor its keys.
What it cannot see by itself is a log whose end was cut off: give the --head that an earlier run printed, which is best
kept on another machine, or at least the number of a record it must reach.

    $ daypass audit verify /var/log/daypass/audit
    $ daypass audit verify --field head /var/log/daypass/audit > head
    $ daypass audit verify --reaches 4711 /var/log/daypass/audit";

const TAIL: &str = "\
Shows the newest records of a log, in words or (--format json) as they are.

    $ daypass audit tail -n 50 /var/log/daypass/audit
    $ daypass audit tail -f --format json /var/log/daypass/audit | jq .request.path";

/// `daypass audit list`.
#[derive(Args)]
pub(super) struct List {
    /// One device only
    path: Option<String>,
}

/// `daypass audit enable`.
#[derive(Args)]
pub(super) struct Enable {
    /// file, syslog or socket
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Its name among the devices; by default the type
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Options of the type, such as file_path=audit.log
    #[arg(value_name = "K=V")]
    options: Vec<String>,
}

/// A device.
#[derive(Args)]
pub(super) struct Path {
    /// Its name among the devices
    path: String,
}

/// `daypass audit verify`.
#[derive(Args)]
pub(super) struct Verify {
    /// The log's folder, [audit] path in the configuration
    #[arg(value_name = "DIR")]
    log: PathBuf,
    /// A key that may have signed it; may be repeated; without it, any
    #[arg(long = "key", value_name = "HEX")]
    keys: Vec<PublicKey>,
    /// A record that must be there, as an earlier run printed it
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<Head>,
    /// The record before the first one, where older files are kept elsewhere
    #[arg(long, value_name = "SEQ:HASH")]
    after: Option<Head>,
    /// The log must reach at least to this record
    #[arg(long, value_name = "SEQ")]
    reaches: Option<u64>,
}

/// `daypass audit tail`.
#[derive(Args)]
pub(super) struct Tail {
    /// The log's folder, [audit] path in the configuration
    #[arg(value_name = "DIR")]
    log: PathBuf,
    /// How many records
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    lines: u64,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
}

impl Audit {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(context),
            Self::Tail(tail) => tail.run(context),
            Self::List(List { path: None }) => list(context).await,
            Self::List(List { path: Some(path) }) => {
                let path = path.trim_matches('/');
                let target = format!("sys/audit/{path}");
                let answer = context.client()?.read(&target, &[]).await;
                let answer = answer.map_err(|error| {
                    Failure::request(format!("show the audit device {path}/"), error)
                })?;
                context.answer(&answer, "")
            }
            Self::Enable(enable) => enable.run(context).await,
            Self::Disable(Path { path }) => {
                let path = path.trim_matches('/');
                let target = format!("sys/audit/{path}");
                let answer = context.client()?.delete(&target).await;
                let answer = answer.map_err(|error| {
                    Failure::request(format!("disable the audit device {path}/"), error)
                })?;
                context.answer(&answer, &format!("Disabled: {path}/"))
            }
            Self::Hash(Path { path }) => {
                let input = context.read_secret("Value")?;
                let text = input
                    .expose_str()
                    .ok_or_else(|| Failure::usage("hash the value", "it is not UTF-8 text"))?;
                let (client, path) = (context.client()?, path.trim_matches('/'));
                let target = format!("sys/audit-hash/{path}");
                let answer = write(&client, "hash the value", &target, json!({"input": text}));
                let answer = answer.await?;
                context.answer(&answer, "")
            }
        }
    }
}

impl Enable {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let path = self.path.unwrap_or_else(|| self.kind.clone());
        let path = path.trim_matches('/');
        let body = json!({
            "type": self.kind,
            "description": self.description.unwrap_or_default(),
            "options": context.fields(&self.options)?,
        });
        let (client, what) = (
            context.client()?,
            format!("enable the audit device {path}/"),
        );
        let answer = write(&client, &what, &format!("sys/audit/{path}"), body).await?;
        context.answer(&answer, &format!("Enabled: {path}/"))
    }
}

async fn list(context: &mut Context<'_, '_>) -> Result<(), Failure> {
    let answer = context
        .client()?
        .read("sys/audit", &[])
        .await
        .map_err(|error| Failure::request("list audit devices", error))?;
    context.warnings(&answer);
    let devices = fields(answer.json());
    let rows: Vec<Vec<String>> = devices
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, facts)| {
            let fact = |name: &str| facts.get(name).map(show).unwrap_or_default();
            vec![
                path.clone(),
                fact("type"),
                fact("description"),
                fact("options"),
            ]
        })
        .collect();
    context.rows(&["Path", "Type", "Description", "Options"], &rows, devices)
}

impl Verify {
    fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let what = "verify the log";
        let expect = Expect {
            keys: self.keys,
            after: self.after,
            seq: self.reaches,
            head: self.head,
        };
        let report = audit::verify(&self.log, &expect).map_err(|error| match error {
            VerifyError::Finding(finding) => Failure::refused(what, finding.to_string()),
            error => Failure::usage(what, error.to_string()),
        })?;
        let keys: Vec<String> = report.signed_by.iter().map(ToString::to_string).collect();
        let fields = json!({
            "files": report.files,
            "records": report.records,
            "first": report.first_seq,
            "head": report.head.to_string(),
            "checkpoints": report.checkpoints,
            "signed_to": report.signed_to,
            "signed_by": keys,
            "half_line_bytes": report.half_line,
        });
        context.value(&fields, &fields)?;
        if report.signed_to < report.head.seq {
            context.note(&format!(
                "The records after {} are in order but not signed yet.",
                report.signed_to
            ));
        }
        Ok(())
    }
}

impl Tail {
    fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let failed = |error: audit::AuditError| Failure::usage("read the log", error.to_string());
        let mut follower = Follower::last(&self.log, self.lines).map_err(failed)?;
        loop {
            while let Some(line) = follower.next_line().map_err(failed)? {
                let text = match context.format {
                    Format::Json => line,
                    Format::Table => audit::summary(&line)
                        .unwrap_or_else(|| "(a line that is not an audit record)".into()),
                };
                context.print(&format!("{text}\n"))?;
            }
            if !self.follow {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }
}
