//! Where and with what a run was made.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::settings::Settings;

pub(crate) fn describe(settings: &Settings) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1024.0 / 1024.0);
    let disk = first_line("stat", &["-f", "-c", "%T", env!("CARGO_TARGET_TMPDIR")]);
    let kernel = first_line("uname", &["-sr"]);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let root = env!("CARGO_MANIFEST_DIR");
    let commit = first_line("git", &["-C", root, "rev-parse", "--short=10", "HEAD"]);
    let changed = first_line("git", &["-C", root, "status", "--porcelain"]);
    let changed = if changed.is_empty() {
        ""
    } else {
        ", with local changes"
    };
    format!(
        "- Machine: {model}, {cores} cores, {gib:.0} GiB, {disk}, {kernel}; load before the run {load}\n\
         - Daypass: {}, commit {commit}{changed}\n\
         - OpenBao: {}\n\
         - wrk: {}; 1 thread, {} connections, {} rounds of {} s\n\
         - PostgreSQL: {}\n",
        version(&settings.daypass, "version"),
        version(&settings.bao, "version"),
        first_line("wrk", &["-v"]).replace(" Copyright (C) 2012 Will Glozer", ""),
        settings.connections,
        settings.rounds,
        settings.round.as_secs(),
        first_line(
            "sh",
            &["-c", "/usr/lib/postgresql/*/bin/postgres --version"]
        ),
    )
}

fn version(program: &Path, argument: &str) -> String {
    let text = first_line(&program.display().to_string(), &[argument]);
    if text.is_empty() {
        "not there".to_owned()
    } else {
        text
    }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}
