#!/usr/bin/env bash
# Fetches what the spokes of docs/examples import (JavaScript, Python), and the property tester of the HTTP API, into
# target/packages, for their tests.
#
# The versions stand in deploy/packages. `make packages` runs this when they changed, and `make unit` does that first, so
# that no test needs the network. A registry that does not answer is asked again.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=$PWD/deploy/packages
out=target/packages
rm -rf "$out"
mkdir -p "$out/javascript"

# again COMMAND…: up to five times, with pauses.
again() {
  local pause
  for pause in 2 5 10 20; do
    ! "$@" || return 0
    echo "packages: $1 failed; again in $pause s" >&2
    sleep "$pause"
  done
  "$@"
}

cp "$pins/package.json" "$pins/package-lock.json" "$out/javascript/"
again npm ci --silent --no-audit --no-fund --prefix "$out/javascript"
again python3 -m pip install --quiet --upgrade --disable-pip-version-check --root-user-action=ignore \
  --target "$out/python" --requirement "$pins/requirements.txt"
touch "$out/fetched"
