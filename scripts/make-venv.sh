#!/usr/bin/env bash
# Makes or refreshes the virtual environment:  make-venv.sh VENV PYTHON
# Called from the repository root. Debian splits venv off Python; it is installed where that is possible.
set -euo pipefail
venv=$1 python=$2

command -v "$python" >/dev/null 2>&1 || "$(dirname "$0")/apt-need.sh" "$python=python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "lamina needs Python 3.11 or newer, and $python is $("$python" -V 2>&1): say which with make PYTHON=python3.12" >&2
  exit 1
}
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  # A name that no program has: the test above has already told that the package is missing.
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$(dirname "$0")/apt-need.sh" "no-such-program-venv=python$version-venv"
fi
# Not with --clear: a half-made environment is replaced, a good one is kept.
[ -x "$venv/bin/pip" ] || { rm -rf "$venv"; "$python" -m venv "$venv"; }
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
