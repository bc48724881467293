//! [`Postgres`]: a private PostgreSQL server, so that no test depends on one that somebody installed.
//!
//! It listens on a free port of the loopback address, keeps everything in a temporary directory, asks
//! for a password (SCRAM) and is gone with the value, even where the test process is killed: a shell
//! between the two ends the server as soon as its standard input closes.
//!
//! The programs are Debian's package `postgresql` (`scripts/install-postgres.sh`). They refuse to run
//! as root, so root starts them as the user `postgres`.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the server given as arguments, waits for a signal's name on standard input, or for its
/// end, and sends the server that signal, or `QUIT`: an immediate shutdown.
const KEEPER: &str = r#"
"$@" </dev/null >>"$LOG" 2>&1 &
server=$!
read -r signal
kill -"${signal:-QUIT}" $server
wait $server
"#;

/// A running server. Dropping it ends the server and removes its files.
pub struct Postgres {
    programs: PathBuf,
    directory: TempDir,
    owner: Option<Owner>,
    port: u16,
    tls: bool,
    keeper: Option<Child>,
}

/// How a server differs from the default one.
#[derive(Default)]
pub struct PostgresOptions {
    /// Whether a commit waits for the disk. Off unless a benchmark wants it.
    pub fsync: bool,
    /// A certificate chain and its key in PEM. Without one there is no TLS.
    pub tls: Option<(String, String)>,
    /// More lines for `postgresql.conf`, such as `("log_statement", "all")`.
    pub settings: Vec<(&'static str, &'static str)>,
}

/// The account a server runs as where we are root.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// The superuser.
    pub const USER: &str = "postgres";
    /// The superuser's password.
    pub const PASSWORD: &str = "launcher-root-password";

    /// Starts a server with the default options.
    pub fn start() -> Self {
        Self::start_with(&PostgresOptions::default())
    }

    /// Starts a server.
    pub fn start_with(options: &PostgresOptions) -> Self {
        let mut server = Self {
            programs: programs(),
            directory: tempfile::Builder::new()
                .prefix("daypass-postgres-")
                .tempdir()
                .expect("a temporary directory"),
            owner: owner(),
            port: 0,
            tls: options.tls.is_some(),
            keeper: None,
        };
        server.give_away(server.directory.path());
        server.initialize(options);
        // Between finding a free port and listening on it, somebody else may take it.
        for _ in 0..5 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("PostgreSQL does not start:\n{}", server.log());
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's connection URL for the database `postgres`, without TLS.
    pub fn url(&self) -> String {
        self.url_of(Self::USER, Self::PASSWORD, "postgres")
    }

    /// A connection URL without TLS. `password` must need no percent-encoding.
    pub fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        let port = self.port;
        format!("postgresql://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// Runs `sql` as the superuser in the database `postgres`: rows by line, columns by `|`.
    pub fn query(&self, sql: &str) -> String {
        self.query_in("postgres", sql)
    }

    /// Runs `sql` as the superuser in `database`.
    pub fn query_in(&self, database: &str, sql: &str) -> String {
        self.query_as(Self::USER, Self::PASSWORD, database, sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs `sql` as anybody.
    ///
    /// # Errors
    /// What the server, or `psql`, says against it.
    pub fn query_as(
        &self,
        user: &str,
        password: &str,
        database: &str,
        sql: &str,
    ) -> Result<String, String> {
        let output = self
            .psql(user, password, database)
            .args(["--command", sql])
            .output()
            .expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// `psql`, ready to be given statements; for a session that stays open.
    pub fn psql(&self, user: &str, password: &str, database: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .env("PGPASSWORD", password)
            .env("PGSSLMODE", if self.tls { "require" } else { "disable" })
            .args(["--no-psqlrc", "--no-password", "--quiet", "--tuples-only"])
            .args(["--no-align", "--set", "ON_ERROR_STOP=1", "--host=127.0.0.1"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--username={user}"))
            .arg(format!("--dbname={database}"));
        command
    }

    /// What the server wrote to its log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// An outage: ends every session and the server. What was committed is kept.
    pub fn stop(&mut self) {
        self.shut_down("INT");
    }

    /// Ends an outage, on the same port.
    pub fn start_again(&mut self) {
        assert!(self.launch(), "PostgreSQL does not start:\n{}", self.log());
    }

    fn initialize(&self, options: &PostgresOptions) {
        let password = self.directory.path().join("password");
        self.write(&password, Self::PASSWORD);
        let output = self
            .program("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C"])
            .args(["--auth=scram-sha-256", "--username", Self::USER])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .expect("initdb runs");
        assert_success("initdb", &output);

        let onoff = |on| if on { "on" } else { "off" };
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("fsync", onoff(options.fsync)),
            ("shared_buffers", "32MB"),
            ("ssl", onoff(options.tls.is_some())),
        ];
        settings.extend(&options.settings);
        let lines: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("{name} = '{value}'\n"))
            .collect();
        self.write(&self.data().join("postgresql.auto.conf"), &lines.concat());
        if let Some((chain, key)) = &options.tls {
            self.write(&self.data().join("server.crt"), chain);
            self.write(&self.data().join("server.key"), key);
        }
    }

    /// Starts the server; `false` where its port is taken.
    fn launch(&mut self) -> bool {
        self.write(&self.log_path(), "");
        let mut keeper = self.command(Path::new("/bin/sh"));
        let keeper = keeper
            .args(["-c", KEEPER, "keeper"])
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .env("LOG", self.log_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        self.keeper = Some(keeper);

        let ready = wait_until(|| {
            let log = self.log();
            if log.contains("could not create any TCP/IP sockets") {
                return Some(false);
            }
            // Whoever connects too early is told so, fatally for that connection alone.
            let mut fatal = log.lines().filter(|line| line.contains("FATAL"));
            let fails = fatal.any(|line| !line.contains("the database system is starting up"));
            assert!(!fails, "PostgreSQL does not start:\n{log}");
            log.contains("ready to accept connections").then_some(true)
        });
        match ready {
            Some(true) => true,
            Some(false) => {
                self.shut_down("QUIT");
                false
            }
            None => panic!("PostgreSQL takes more than {PATIENCE:?}:\n{}", self.log()),
        }
    }

    fn shut_down(&mut self, signal: &str) {
        let Some(mut keeper) = self.keeper.take() else {
            return;
        };
        if let Some(mut stdin) = keeper.stdin.take() {
            // The keeper may have ended with the server; then there is nobody to tell.
            let _ = writeln!(stdin, "{signal}");
        }
        let _ = keeper.wait();
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn program(&self, name: &str) -> Command {
        self.command(&self.programs.join(name))
    }

    /// A command that runs as the server's owner, in its directory.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        if let Some(Owner { uid, gid }) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Writes a file that only the server's owner may read.
    fn write(&self, path: &Path, content: &str) {
        fs::write(path, content).expect("a file in the server's directory");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
        self.give_away(path);
    }

    fn give_away(&self, path: &Path) {
        if let Some(Owner { uid, gid }) = self.owner {
            chown(path, Some(uid), Some(gid)).expect("root may");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.shut_down("QUIT");
    }
}

/// The newest installed server's programs.
fn programs() -> PathBuf {
    let installed = match fs::read_dir("/usr/lib/postgresql") {
        Ok(entries) => entries
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("/usr/lib/postgresql: {error}"),
    };
    installed
        .into_iter()
        .max_by_key(|bin| {
            let version = bin.parent().and_then(Path::file_name);
            version.and_then(|name| name.to_str()?.parse::<u32>().ok())
        })
        .expect("PostgreSQL's programs: run scripts/install-postgres.sh")
}

/// The user `postgres`, where we are root.
fn owner() -> Option<Owner> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id")
            .args(arguments)
            .output()
            .expect("id runs");
        assert_success("id", &output);
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse::<u32>().expect("id prints a number")
    };
    (id(&["-u"]) == 0).then(|| Owner {
        uid: id(&["-u", "postgres"]),
        gid: id(&["-g", "postgres"]),
    })
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

fn assert_success(program: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Asks until there is an answer, or patience ends.
fn wait_until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_answers_survives_an_outage_and_is_gone_afterwards() {
        let mut server = Postgres::start();
        assert_eq!(server.query("SELECT 1 + 1, current_user"), "2|postgres");
        let refused = server.query_as(Postgres::USER, "wrong", "postgres", "SELECT 1");
        assert!(
            refused
                .unwrap_err()
                .contains("password authentication failed")
        );

        server.query("CREATE TABLE kept (n int)");
        server.stop();
        let down = server.query_as(Postgres::USER, Postgres::PASSWORD, "postgres", "SELECT 1");
        assert!(down.unwrap_err().contains("Connection refused"));
        server.start_again();
        assert_eq!(server.query("SELECT count(*) FROM kept"), "0");

        let (port, directory) = (server.port(), server.directory.path().to_owned());
        drop(server);
        assert!(!directory.exists());
        // Its port is free again: nobody answers.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
