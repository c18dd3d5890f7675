#!/usr/bin/env bash
# Makes targets one after the other and prints how long each took, also when one fails; the first failure ends it.
#
#   deploy/steps.sh TARGET…        MAKE names make (default: make)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }

taken=()
current=""
table() {
  local code=$?
  [ -z "$current" ] || taken+=("$current $((SECONDS - began)) failed")
  printf '\n%-18s %8s\n' step seconds
  for line in "${taken[@]}"; do
    read -r step seconds note <<<"$line"
    printf '%-18s %8d %s\n' "$step" "$seconds" "$note"
  done
  printf '%-18s %8d\n' "all" "$SECONDS"
  exit "$code"
}
trap table EXIT

for current in "$@"; do
  began=$SECONDS
  "${MAKE:-make}" --no-print-directory "$current"
  taken+=("$current $((SECONDS - began))")
  current=""
done
