//! The configuration file: any text is a configuration or a list of errors with places.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[allow(
    dead_code,
    unused_imports,
    reason = "only the public part of the module is used here"
)]
#[path = "../../src/config/mod.rs"]
mod config;

/// A file of this process, in memory where the system has such a place.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let folder = base.join(format!("daypass-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the file");
    folder.join("daypass.toml")
});

fn kinds() -> config::Kinds {
    config::Kinds {
        secrets: vec!["database", "kv", "pki"],
        auth: vec!["approle", "jwt"],
    }
}

fuzz_target!(|text: &str| {
    fs::write(&*FILE, text).expect("the file is written");
    match config::load(&FILE, &kinds()) {
        Ok(config) => {
            let mounts = config.mounts.iter().flat_map(|mount| &mount.resources);
            // A secret that is referred to need not exist.
            mounts.for_each(|resource| drop(resource.body()));
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
