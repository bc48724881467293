//! What the environment says about a run.

use std::path::PathBuf;
use std::time::Duration;

use crate::leases;
use crate::rows::Row;

pub(crate) const HELP: &str = "\
Measures Daypass and OpenBao doing the same work on this machine, in alternating rounds.

    scripts/install-bench-tools.sh && cargo bench --bench peer

Variables of the environment:
    ROUNDS=3          rounds per row and server; the median counts
    SECONDS=6         length of a round
    CONNECTIONS=32    kept-alive TLS connections
    LEASES=100000     leases that are held
    ENDING=50000      leases that end within one second
    ROWS=a,b          only these: health, kv-read, kv-write, token-lookup, token-create, pki-issue,
                      pki-issue-unstored, database-creds, database-creds-plain, login-approle,
                      login-approle-batch, login-jwt-rs256, login-jwt-rs256-batch,
                      login-jwt-es256, login-jwt-es256-batch, leases, leases-ending
    ONLY=daypass      only this server: daypass or openbao
    QUICK=1           a smoke run: one short round of everything, few leases
    BAO=FILE          OpenBao's program; default: what scripts/install-bench-tools.sh installed
    DAYPASS=FILE      Daypass's program; default: the one cargo built for this benchmark
";

/// One run.
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) connections: usize,
    pub(crate) leases: usize,
    pub(crate) ending: usize,
    pub(crate) bao: PathBuf,
    pub(crate) daypass: PathBuf,
    only: Option<String>,
    rows: Vec<String>,
}

impl Settings {
    /// # Errors
    /// The variable that cannot be used.
    pub(crate) fn from_env() -> Result<Self, String> {
        let quick = text("QUICK").is_some_and(|value| value != "0");
        let or = |normal, smoke| if quick { smoke } else { normal };
        let rows: Vec<String> = text("ROWS")
            .map(|rows| rows.split(',').map(|row| row.trim().to_owned()).collect())
            .unwrap_or_default();
        let known: Vec<&str> = Row::ALL
            .iter()
            .map(|row| row.name())
            .chain([leases::HELD, leases::ENDING])
            .collect();
        if let Some(row) = rows.iter().find(|row| !known.contains(&row.as_str())) {
            return Err(format!(
                "ROWS: there is no \"{row}\"; known are {}",
                known.join(", ")
            ));
        }
        let only = text("ONLY");
        if only
            .as_deref()
            .is_some_and(|only| only != "daypass" && only != "openbao")
        {
            return Err("ONLY: expected daypass or openbao".into());
        }
        let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-tools/bin/bao");
        Ok(Self {
            rounds: number("ROUNDS", or(3, 1))?,
            round: Duration::from_secs(number("SECONDS", or(6, 1))? as u64),
            connections: number("CONNECTIONS", 32)?,
            leases: number("LEASES", or(100_000, 2000))?,
            ending: number("ENDING", or(50_000, 1000))?,
            bao: text("BAO").map_or_else(|| installed.into(), PathBuf::from),
            daypass: text("DAYPASS")
                .map_or_else(|| env!("CARGO_BIN_EXE_daypass").into(), PathBuf::from),
            only,
            rows,
        })
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row)
    }

    pub(crate) fn wants_server(&self, name: &str) -> bool {
        self.only
            .as_deref()
            .is_none_or(|only| only.eq_ignore_ascii_case(name))
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, default: usize) -> Result<usize, String> {
    match text(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!(
                "{name}: expected a whole number above zero, not \"{text}\""
            )),
        },
    }
}
