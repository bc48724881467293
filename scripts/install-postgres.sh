#!/bin/sh
# Installs PostgreSQL's server programs where they are missing; tests start private servers with them.
# Does nothing where they are there. Needs root (or sudo) on Debian and its relatives.
set -eu

if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
export DEBIAN_FRONTEND=noninteractive
# The package would start a server of its own, which nobody here uses.
$as_root mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
install() {
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends postgresql >/dev/null
}
install 2>/dev/null || { $as_root apt-get update -qq && install; }
ls /usr/lib/postgresql/*/bin/initdb >/dev/null
