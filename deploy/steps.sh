#!/usr/bin/env bash
# Makes targets one after the other and prints how long each took, also when one fails; the first failure ends it.
#
#   deploy/steps.sh TARGET…        MAKE names make (default: make)
#
# `begin:TARGET` makes one in the background, with the lowest priority, so that it takes the time in which the steps that
# follow wait for something. TARGET alone, later, waits for that and makes what is left of it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

logs=$(mktemp -d)
declare -A begun
taken=()
current=""
table() {
  local code=$?
  # What nobody waited for has no use any more.
  for target in "${!begun[@]}"; do
    kill -- "-${begun[$target]}" 2>/dev/null || true
  done
  rm -rf "$logs"
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

# begin TARGET: as a process group of its own, which can be ended as a whole.
begin() {
  set -m
  (exec nice -n 19 "${MAKE:-make}" --no-print-directory "$1") >"$logs/$1" 2>&1 </dev/null &
  set +m
  begun[$1]=$!
}

# wait_for TARGET: what it wrote is shown; whether it failed, its own step shows.
wait_for() {
  wait "${begun[$1]}" || echo "steps: $1 failed in the background: once more" >&2
  unset "begun[$1]"
  cat "$logs/$1"
}

for current in "$@"; do
  began=$SECONDS
  case $current in
    begin:*) begin "${current#begin:}" ;;
    *)
      [ -z "${begun[$current]:-}" ] || wait_for "$current"
      "${MAKE:-make}" --no-print-directory "$current"
      taken+=("$current $((SECONDS - began))")
      ;;
  esac
  current=""
done
