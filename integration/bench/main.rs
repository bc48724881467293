//! `cargo bench --bench peer`: Daypass and OpenBao doing the same work on the same machine.
//!
//! Both serve TLS with the same certificate, keep their data on the same disk and write an audit log.
//! `wrk` asks them in turns, round by round; while one is measured the other is stopped (SIGSTOP), so
//! that neither pays for the other's background work. Each row gets servers of its own.
//!
//! The result is a table in Markdown on standard output; the course of events goes to standard error.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    missing_docs,
    reason = "a benchmark stops at the first surprise, prints, and rounds what it prints"
)]

mod database;
mod leases;
mod load;
mod logins;
mod machine;
mod report;
mod rows;
mod server;
mod settings;

use std::process::ExitCode;

use crate::rows::Row;
use crate::server::Site;
use crate::settings::{HELP, Settings};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    // Test runners ask every target for its tests; this one has none.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&settings));
    ExitCode::SUCCESS
}

async fn run(settings: &Settings) {
    let site = Site::new(settings);
    println!("{}", machine::describe(settings));
    let mut measured = Vec::new();
    for row in Row::ALL
        .into_iter()
        .filter(|row| settings.wants(row.name()))
    {
        measured.push((row, rows::measure(row, settings, &site).await));
    }
    if !measured.is_empty() {
        println!("{}", report::requests(&measured));
    }
    if settings.wants(leases::HELD) {
        println!("{}", report::held(&leases::held(settings, &site).await));
    }
    if settings.wants(leases::ENDING) {
        println!("{}", report::ending(&leases::ending(settings, &site).await));
    }
}
