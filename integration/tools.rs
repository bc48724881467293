//! The programs that tests run besides the server: where they are, and which are left out.

use std::path::PathBuf;
use std::process::{Child, Command, Output};

/// Whether `DAYPASS_IT_SKIP` names a tool that a test needs; then the test ends, having said so.
pub(crate) fn skipped(needed: &[&str]) -> bool {
    let skip = std::env::var("DAYPASS_IT_SKIP").unwrap_or_default();
    let named = |tool: &&&str| skip.split(',').any(|name| name.trim() == **tool);
    match needed.iter().find(named) {
        None => false,
        Some(tool) => {
            eprintln!("skipped: DAYPASS_IT_SKIP names {tool}");
            true
        }
    }
}

/// A program of the Python environment with the clients: `DAYPASS_VENV`, or `target/venv`.
pub(crate) fn from_venv(program: &str) -> Command {
    let venv = std::env::var_os("DAYPASS_VENV").map_or_else(|| root("target/venv"), PathBuf::from);
    let path = venv.join("bin").join(program);
    assert!(
        path.exists(),
        "{} is missing: run scripts/install-test-tools.sh",
        path.display()
    );
    Command::new(path)
}

/// Where the packages from npm are: `DAYPASS_NODE`, or `target/node`.
pub(crate) fn node_modules() -> PathBuf {
    let folder =
        std::env::var_os("DAYPASS_NODE").map_or_else(|| root("target/node"), PathBuf::from);
    let modules = folder.join("node_modules");
    assert!(
        modules.exists(),
        "{} is missing: run scripts/install-test-tools.sh",
        modules.display()
    );
    modules
}

/// A file of the repository.
pub(crate) fn root(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a program that must succeed, and answers what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program, whatever becomes of it.
pub(crate) fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A child that does not outlive the test, whatever becomes of it.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
