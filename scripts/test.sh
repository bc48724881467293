#!/usr/bin/env bash
# Runs all tests, after installing what they need where it is missing. Arguments choose among them, as for
# `cargo nextest run` (or `cargo test`, where nextest is not installed).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-test-tools.sh
if cargo nextest --version >/dev/null 2>&1; then
    # nextest runs no doc tests. They come first: its summary is what a reader looks for.
    if [ $# -eq 0 ]; then
        cargo test --quiet --workspace --doc
    fi
    cargo nextest run --workspace "$@"
else
    cargo test --workspace "$@"
fi
