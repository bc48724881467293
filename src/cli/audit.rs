//! Looks at an audit log on this machine: proves that it is whole, and reads it as it grows.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failure;
use super::context::Context;
use super::output::Format;
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
}

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
    pub(super) fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Verify(verify) => verify.run(context),
            Self::Tail(tail) => tail.run(context),
        }
    }
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
