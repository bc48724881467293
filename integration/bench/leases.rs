//! Many leases: what holding them costs, how a server with them starts, how fast they are revoked, and
//! what callers feel when very many end at once. Leases of certificates, because both servers make them
//! without an upstream that would set the pace.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use daypass::client::Content;
use serde_json::json;
use tokio::task::JoinSet;

use crate::database::percentile;
use crate::load::Ask;
use crate::rows::set_up_pki;
use crate::server::{Kind, Server, Site};
use crate::settings::Settings;

/// The rows' names.
pub(crate) const HELD: &str = "leases";
pub(crate) const ENDING: &str = "leases-ending";

/// Nobody waits longer for leases to go; the rate until then is the result.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at how many there are.
const LOOK: Duration = Duration::from_millis(250);
/// Readers at work while leases end, and how often each of them reads.
const READERS: usize = 8;
const READ_EVERY: Duration = Duration::from_millis(20);

/// What holding leases showed.
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) leases: u64,
    pub(crate) granted_per_second: f64,
    pub(crate) resident_before: u64,
    pub(crate) resident: u64,
    pub(crate) restart: Duration,
    pub(crate) resident_after_restart: u64,
    pub(crate) revoked: u64,
    pub(crate) revoking: Duration,
}

pub(crate) async fn held(settings: &Settings, site: &Site) -> Vec<Held> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if !settings.wants_server(kind.name()) {
            continue;
        }
        let mut server = Server::start(kind, site).await;
        set_up_pki(&server).await;
        // Whatever a busy server keeps besides leases is there before the first of them.
        Ask::get("secret/data/bench/read").load(&server, settings, Duration::from_secs(2), 0);
        let resident_before = server.usage().resident_bytes;
        let body = r#"{"common_name":"web.bench.internal","ttl":"24h"}"#;
        let granted_per_second =
            Ask::post("pki/issue/leased", body).repeat(&server, settings, settings.leases);
        let leases = settled_count(&server).await;
        let resident = server.usage().resident_bytes;
        eprintln!(
            "leases: {} {leases} at {:.0}/s, RSS {} MiB before, {} MiB with them",
            kind.name(),
            granted_per_second,
            resident_before >> 20,
            resident >> 20
        );
        let restart = server.restart().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let resident_after_restart = server.usage().resident_bytes;
        eprintln!(
            "leases: {} restarted in {restart:?}, RSS {} MiB",
            kind.name(),
            resident_after_restart >> 20
        );
        let begun = Instant::now();
        server
            .write("sys/leases/revoke-prefix/pki/issue/leased", json!({}))
            .await;
        let left = until_gone(&server, begun).await;
        let (revoked, revoking) = (leases.saturating_sub(left), begun.elapsed());
        eprintln!("leases: {} revoked {revoked} in {revoking:?}", kind.name());
        all.push(Held {
            kind,
            leases,
            granted_per_second,
            resident_before,
            resident,
            restart,
            resident_after_restart,
            revoked,
            revoking,
        });
    }
    all
}

/// What callers felt while leases ended.
pub(crate) struct Ending {
    pub(crate) kind: Kind,
    pub(crate) leases: u64,
    pub(crate) left: u64,
    /// From the end of the first until none was left, or patience ended.
    pub(crate) took: Duration,
    pub(crate) quiet_p50: Duration,
    pub(crate) quiet_p99: Duration,
    pub(crate) during_p50: Duration,
    pub(crate) during_p99: Duration,
}

pub(crate) async fn ending(settings: &Settings, site: &Site) -> Vec<Ending> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if !settings.wants_server(kind.name()) {
            continue;
        }
        let server = Server::start(kind, site).await;
        set_up_pki(&server).await;
        let body = r#"{"common_name":"web.bench.internal","ttl":"{ttl}s"}"#;
        let mut ask = Ask::post("pki/issue/leased", body);
        // How fast it grants them tells when all can be there.
        ask.ends_at = epoch_seconds() + 3600;
        let sample = ask.load(&server, settings, Duration::from_secs(2), 0);
        let needed = settings.ending as f64 / sample.per_second();
        let quiet_for = Duration::from_secs(5);
        ask.ends_at = epoch_seconds() + (needed * 2.0) as u64 + quiet_for.as_secs() + 15;
        let ends = UNIX_EPOCH + Duration::from_secs(ask.ends_at);
        let others = settled_count(&server).await;
        ask.repeat(&server, settings, settings.ending);
        let leases = settled_count(&server).await.saturating_sub(others);

        let quiet = reading(&server).await;
        tokio::time::sleep(quiet_for).await;
        let quiet = quiet.finish().await;
        let wait = ends.duration_since(now());
        tokio::time::sleep(wait.expect("granted sooner than they end")).await;
        let begun = Instant::now();
        let during = reading(&server).await;
        let left = until(&server, begun, others).await.saturating_sub(others);
        let took = begun.elapsed();
        let during = during.finish().await;
        eprintln!(
            "leases-ending: {} {leases} gone but {left} in {took:?}; kv p50/p99 quiet {:?} {:?}, during {:?} {:?}",
            kind.name(),
            percentile(&quiet, 50),
            percentile(&quiet, 99),
            percentile(&during, 50),
            percentile(&during, 99),
        );
        all.push(Ending {
            kind,
            leases,
            left,
            took,
            quiet_p50: percentile(&quiet, 50),
            quiet_p99: percentile(&quiet, 99),
            during_p50: percentile(&during, 50),
            during_p99: percentile(&during, 99),
        });
    }
    all
}

/// How many leases there are, by the cheapest question that each server answers.
async fn count(server: &Server) -> u64 {
    let (path, query) = match server.kind {
        Kind::Daypass => ("sys/leases/count", None),
        Kind::OpenBao => ("sys/metrics", Some(("format", "prometheus"))),
    };
    let answer = server
        .root
        .read(path, query.as_slice())
        .await
        .unwrap_or_else(|error| panic!("{} {path}: {error}", server.kind.name()));
    let counted = match &answer.content {
        Content::Raw(text) => String::from_utf8_lossy(text)
            .lines()
            .find_map(|line| {
                line.strip_prefix("vault_expire_num_leases")?
                    .trim()
                    .parse()
                    .ok()
            })
            .map(|leases: f64| leases as u64),
        _ => answer.data()["lease_count"].as_u64(),
    };
    counted.unwrap_or_else(|| panic!("{} {path} does not count leases", server.kind.name()))
}

/// The count once it has stopped changing: OpenBao's gauge is a second behind.
async fn settled_count(server: &Server) -> u64 {
    let mut last = None;
    loop {
        let now = count(server).await;
        if last.replace(now) == Some(now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
}

/// Waits until no lease is left, or patience ends; returns how many are left.
async fn until_gone(server: &Server, begun: Instant) -> u64 {
    // The token that asks has a lease of its own in OpenBao.
    let own = match server.kind {
        Kind::Daypass => 0,
        Kind::OpenBao => 1,
    };
    until(server, begun, own).await
}

async fn until(server: &Server, begun: Instant, target: u64) -> u64 {
    loop {
        let left = count(server).await;
        if left <= target || begun.elapsed() > PATIENCE {
            return left;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Readers of a secret at a steady pace. A read that should have begun while the one before it was still
/// waiting counts from when it should have begun.
struct Readers {
    stop: Arc<std::sync::atomic::AtomicBool>,
    tasks: JoinSet<Vec<Duration>>,
}

async fn reading(server: &Server) -> Readers {
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for reader in 0..READERS {
        let (client, stop) = (server.client(), Arc::clone(&stop));
        let offset = READ_EVERY / READERS as u32 * reader as u32;
        // The connection is there before the first measured read.
        client
            .read("secret/data/bench/read", &[])
            .await
            .expect("a secret");
        tasks.spawn(async move {
            let mut taken = Vec::new();
            let mut due = Instant::now() + offset;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let late = Instant::now() > due;
                if !late {
                    tokio::time::sleep_until(due.into()).await;
                }
                let from = if late { due } else { Instant::now() };
                client
                    .read("secret/data/bench/read", &[])
                    .await
                    .expect("a secret");
                taken.push(from.elapsed());
                due += READ_EVERY;
            }
            taken
        });
    }
    Readers { stop, tasks }
}

impl Readers {
    /// The sorted times that reads took.
    async fn finish(self) -> Vec<Duration> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut taken = self.tasks.join_all().await.concat();
        taken.sort_unstable();
        taken
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "leases of a real server end by the real clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) fn epoch_seconds() -> u64 {
    now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}
