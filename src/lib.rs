//! Daypass: headless identity infrastructure. One binary that decides, issues, rotates and revokes
//! short-lived credentials for software.
//!
//! The order of the modules is the layering: a module uses only those above it.

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod memory;
pub mod config;
pub mod storage;
pub mod audit;
pub mod identity;
pub mod policy;
pub mod lease;
pub mod engine;
pub mod api;
pub mod server;
pub mod client;
pub mod cli;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use toml::{Table, Value};

    /// What `deny.toml` says of TLS and cryptography, without its tool: one stack, and none beside it.
    ///
    /// Cargo is asked, because Cargo.lock also names what a feature that is off would bring: ring is there.
    #[test]
    fn there_is_one_tls_stack() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let tree = Command::new(cargo)
            .args(["tree", "--frozen", "--workspace", "--all-features"])
            .args([
                "--edges",
                "normal,build,dev",
                "--prefix",
                "none",
                "--format",
                "{p}",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            tree.status.success(),
            "{}",
            String::from_utf8_lossy(&tree.stderr)
        );
        let tree = String::from_utf8(tree.stdout).unwrap();
        let mut packages: Vec<&str> = tree
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .collect();
        packages.sort_unstable();
        packages.dedup();
        let versions = |name: &str| {
            let named = packages
                .iter()
                .filter(|package| package.split(' ').next() == Some(name));
            named.count()
        };
        for banned in ["ring", "openssl", "openssl-sys", "native-tls"] {
            assert_eq!(
                versions(banned),
                0,
                "{banned}: see `cargo tree --invert {banned}`"
            );
        }
        for single in ["rustls", "aws-lc-rs", "aws-lc-sys"] {
            assert_eq!(
                versions(single),
                1,
                "{single}: see `cargo tree --invert {single}`"
            );
        }
    }

    #[test]
    fn every_dependency_is_from_crates_io() {
        for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(lock);
            let locked: Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
            for package in locked["package"].as_array().unwrap() {
                let source = package.get("source").and_then(Value::as_str);
                let registry = "registry+https://github.com/rust-lang/crates.io-index";
                assert!(
                    source.is_none_or(|source| source == registry),
                    "{lock}: {package}"
                );
            }
        }
    }
}
