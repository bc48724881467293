//! The results as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::leases::{Ending, Held};
use crate::load::Measured;
use crate::rows::{Round, Rounds, Row};
use crate::server::Kind;

/// The table of requests: medians over the rounds.
pub(crate) fn requests(rows: &[(Row, Rounds)]) -> String {
    let mut text = String::from(
        "| Daypass / OpenBao | requests/s | ratio | p50 ms | p99 ms | CPU ms each | RSS MiB |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (row, rounds) in rows {
        let both = |value: &dyn Fn(&Round) -> f64| {
            let of = |kind| {
                let (_, rounds) = rounds.servers.iter().find(|(which, _)| *which == kind)?;
                Some(median(rounds.iter().map(value)))
            };
            (of(Kind::Daypass), of(Kind::OpenBao))
        };
        let rate = both(&|round| round.load.per_second());
        let errors: u64 = rounds
            .servers
            .iter()
            .flat_map(|(_, rounds)| rounds)
            .map(|round| round.load.errors)
            .sum();
        let note = if errors > 0 {
            format!(" ({errors} errors)")
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "| {}{note} | {} | {} | {} | {} | {} | {} |",
            row.title(),
            pair(rate, 0),
            ratio(rate),
            pair(both(&|round| ms(round.load.p50)), 1),
            pair(both(&|round| ms(round.load.p99)), 1),
            pair(both(&|round| ms(round.cpu)), 3),
            pair(both(&|round| mib(round.resident_bytes)), 0),
        );
        if !rounds.bare.is_empty() {
            let bare = median(rounds.bare.iter().map(Measured::per_second));
            let share = rate.0.map_or(String::new(), |daypass| {
                format!("Daypass reaches {:.0} %", daypass / bare * 100.0)
            });
            let _ = writeln!(
                text,
                "| the same SQL alone | {bare:.0} | {share} | {:.1} | {:.1} | | |",
                median(rounds.bare.iter().map(|load| ms(load.p50))),
                median(rounds.bare.iter().map(|load| ms(load.p99))),
            );
        }
    }
    text
}

pub(crate) fn held(servers: &[Held]) -> String {
    let mut text = String::from(
        "| | leases | granted/s | RSS before → with MiB | bytes each | restart to first answer | RSS then MiB | \
         revoked by prefix |\n|---|---|---|---|---|---|---|---|\n",
    );
    for server in servers {
        let grown = server.resident.saturating_sub(server.resident_before);
        let rate = server.revoked as f64 / server.revoking.as_secs_f64();
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} → {:.0} | {} | {:.3} s | {:.0} | {} in {:.1} s: {rate:.0}/s |",
            server.kind.name(),
            server.leases,
            server.granted_per_second,
            mib(server.resident_before),
            mib(server.resident),
            grown / server.leases.max(1),
            server.restart.as_secs_f64(),
            mib(server.resident_after_restart),
            server.revoked,
            server.revoking.as_secs_f64(),
        );
    }
    text
}

pub(crate) fn ending(servers: &[Ending]) -> String {
    let mut text = String::from(
        "| | leases ending in one second | gone after | kv read p50 ms quiet → during | p99 ms quiet → during | p99 ratio |\n\
         |---|---|---|---|---|---|\n",
    );
    for server in servers {
        let left = match server.left {
            0 => String::new(),
            left => format!(" ({left} left)"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} s{left} | {:.1} → {:.1} | {:.1} → {:.1} | {:.1} |",
            server.kind.name(),
            server.leases,
            server.took.as_secs_f64(),
            ms(server.quiet_p50),
            ms(server.during_p50),
            ms(server.quiet_p99),
            ms(server.during_p99),
            ms(server.during_p99) / ms(server.quiet_p99),
        );
    }
    text
}

fn pair(values: (Option<f64>, Option<f64>), digits: usize) -> String {
    let one =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    format!("{} / {}", one(values.0), one(values.1))
}

fn ratio(values: (Option<f64>, Option<f64>)) -> String {
    match values {
        (Some(daypass), Some(openbao)) => format!("{:.1}×", daypass / openbao),
        _ => String::new(),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
