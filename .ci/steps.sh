# Functions of the CI scripts.
# shellcheck shell=bash

work=$(mktemp -d)

step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# skip REASON STEP: this machine cannot run STEP. An error where every step must run.
skip() {
  [ -z "${REQUIRE_ALL:-}" ] || fail "cannot run here: $2 ($1)"
  echo "skipped: $1: $2"
}

# Package tools print the addresses of the machine's registries. Their output goes to a file, and to
# the screen only after a failure and without the addresses.
mask() { sed -E 's#[a-z+]+://[^[:space:]"'\'']+#<address>#g'; }
quietly() {
  "$@" >"$work/log" 2>&1 </dev/null && return
  tail -n 60 "$work/log" | mask >&2
  fail "$*"
}

# need PROGRAM PACKAGE...: installs the Debian packages unless PROGRAM is there.
need() {
  command -v "$1" >/dev/null || install "${@:2}"
}

# install PACKAGE...: installs Debian packages.
install() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] ||
    fail "these Debian packages are missing: $*. Install them, or run this script as root on Debian."
  [ -n "${apt_updated:-}" ] || quietly timeout 5m apt-get -qq update
  apt_updated=yes
  quietly timeout 5m env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
}

# wheel PROGRAM PACKAGE==VERSION: prints the path of a program that is installed, or comes in a wheel of PyPI.
wheel() {
  command -v "$1" && return
  python3 -c 'import ensurepip' 2>/dev/null || install python3-venv >&2
  python3 -m venv "$work/venv" && timeout 5m "$work/venv/bin/pip" -q install "$2" >"$work/log" 2>&1 &&
    echo "$work/venv/bin/$1" || true
}

# Finds Rust, or installs it through rustup where rustup can be had.
need_rust() {
  export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
  if ! command -v cargo >/dev/null; then
    # Debian 13 and later have a package of rustup.
    command -v rustup >/dev/null || timeout 5m apt-get -qq install -y rustup >"$work/log" 2>&1 || true
    # Installs what rust-toolchain.toml names.
    timeout 10m rustup toolchain install >"$work/log" 2>&1 || true
  fi
  local tool
  for tool in cargo rustfmt cargo-clippy; do
    "$tool" --version >/dev/null 2>&1 ||
      fail "$tool is missing. Install Rust 1.95 or newer from https://rustup.rs, then: rustup component add rustfmt clippy"
  done
}
