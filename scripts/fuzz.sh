#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (default 60), as many at a time as there are cores, and prints a
# line for each. Fails where one crashes; its input is then in fuzz/artifacts/TARGET/.
#
#   scripts/fuzz.sh [SECONDS] [TARGET…]
#
# FUZZ_SEED=N begins from a seed of your choice instead of a random one; CI does, so that a change fails
# for what it changed and not for its luck.
#
# Installs cargo-fuzz where it is missing. Works with a stable compiler: RUSTC_BOOTSTRAP lets it take the
# sanitizer's flags.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/fuzz/target}

command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --debug cargo-fuzz --version 0.13.2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! cargo fuzz build >"$work/build.log" 2>&1; then
  cat "$work/build.log"
  exit 1
fi
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo fuzz list); fi

run() {
  local target=$1 seconds=$2 work=$3 log=$3/$1.log
  mkdir -p "$work/$target" "fuzz/artifacts/$target"
  # What is found goes to the first folder; the second holds the seeds.
  if RUST_BACKTRACE=0 TMPDIR=$work cargo fuzz run "$target" "$work/$target" "testdata/fuzz/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -seed="${FUZZ_SEED:-0}" \
    >"$log" 2>&1; then
    local runs coverage
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    echo "$target: ok, $runs runs in $seconds s, $coverage edges covered"
  else
    echo "$target: CRASHED"
    grep -vE '^( *#[0-9]+ |$)' "$log" | tail -30
    return 1
  fi
}
export -f run

printf '%s\0' "${targets[@]}" |
  xargs -0 -P "$(nproc)" -I '{}' bash -euc 'run "$1" "$2" "$3"' run '{}' "$seconds" "$work"
