//! Long sessions with the clients people have, each at a server that is fresh: not even initialized.
//!
//! A session is a script beside this file, so that it can be run by hand at any server. The same scripts run
//! at OpenBao itself ([`openbao_does_what_the_sessions_say`]): what they demand of Daypass is what its peer
//! does, and not what we believe it does. Where the two differ on purpose, the script says so.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use daypass_conformance::Postgres;

use crate::server::Server;
use crate::tls::Authority;
use crate::tools::{self, Killed};
use crate::{PATIENCE, database, wait_for};

/// Files that a session's audit devices write.
const DEVICES: &str = "data/audit-devices";

/// Sets up a session's command: the server, and a PostgreSQL server of the test's own.
fn at<'a>(
    command: &'a mut Command,
    folder: &Path,
    url: &str,
    postgres: &Postgres,
) -> &'a mut Command {
    command
        .current_dir(folder)
        .env("ADDRESS", url)
        .env("CA", folder.join("ca.pem"))
        .env("BAO", tools::from_venv("bao").get_program())
        .env("HOME", folder)
        .env("DEVICES", folder.join(DEVICES))
        .env("PGPORT", postgres.port().to_string())
        .env("PGUSER", Postgres::USER)
        .env("PGPASSWORD", Postgres::PASSWORD)
}

fn python(script: &str) -> Command {
    let mut command = tools::from_venv("python");
    command
        .arg(tools::root("integration").join(script))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs a session at a fresh Daypass, whose audit log must be whole afterwards.
fn at_daypass(mut session: Command) {
    if tools::skipped(&["postgresql", "clients"]) {
        return;
    }
    let postgres = database::postgres();
    let mut server = Server::prepare("");
    server.launch();
    let said = tools::succeed(at(
        session.env("SERVER", "daypass"),
        server.folder(),
        &server.url(),
        &postgres,
    ));
    eprintln!("{said}");
    server.verify_audit();
}

#[test]
fn bao_goes_from_init_to_seal() {
    at_daypass(python("bao_session.py"));
}
