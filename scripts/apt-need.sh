#!/usr/bin/env bash
# Installs Debian packages whose program is missing:  apt-need.sh [--try] PROGRAM=PACKAGE ...
# As root it runs apt-get; any other user gets one line that says what to install. With --try a package that
# cannot be had is a warning, not a failure.
set -euo pipefail

optional=
if [ "${1:-}" = --try ]; then optional=1; shift; fi

missing=()
for pair in "$@"; do
  # sbin is not on every user's PATH, yet that is where some of these live.
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

fail() {
  echo "$1" >&2
  [ -n "$optional" ] && exit 0
  exit 1
}

command -v apt-get >/dev/null 2>&1 || fail "missing: ${missing[*]} - install them with this system's package manager"
[ "$(id -u)" -eq 0 ] || fail "missing Debian packages - run: sudo apt-get install ${missing[*]}"

echo "installing Debian packages: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
# The package lists may be absent (a fresh container) or stale: refresh them only when the plain way fails.
install 2>/dev/null || { apt-get update -q >/dev/null && install; } || fail "cannot install: ${missing[*]}"
