#!/usr/bin/env bash
# Runs Autobahn's test suite against hub/wire in both roles, by its example `echo`, and prints what came of it.
#
#   tests/autobahn/run.sh        every case
#   tests/autobahn/run.sh fast   groups 1 to 7 and 10, without the large messages of 9 and the compression of 12 and 13
#
# The suite is installed into target/tools/autobahn, once for each change of requirements.txt. It leaves its reports, with the
# frames of every case, in target/autobahn.
set -euo pipefail
cd "$(dirname "$0")/../.."

pins=tests/autobahn/requirements.txt
# What Python takes for the user's own packages.
export PYTHONUSERBASE=$PWD/target/tools/autobahn
out=$PWD/target/autobahn
agent=alkhub-wire

case "${1:-all}" in
  all) cases='["*"]' ;;
  fast) cases='["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]' ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

python=$(tests/autobahn/python.sh) || { echo "autobahn: no Python 2.7: set PYTHON2 to one" >&2; exit 1; }
if ! cmp -s "$pins" "$PYTHONUSERBASE/installed"; then
  rm -rf "$PYTHONUSERBASE"
  "$python" -W ignore -m pip install --user --ignore-installed --no-deps --quiet --no-warn-script-location \
    --disable-pip-version-check --requirement "$pins"
  cp "$pins" "$PYTHONUSERBASE/installed"
fi
cargo build --quiet --locked -p alkhub-wire --example echo
echo=target/debug/examples/echo

# No run takes longer than this, of the suite or of the echo as its client.
limit=900

# wstest MODE: with the specification MODE.json; in the background only, for it becomes the suite's process.
wstest() {
  cd "$out"
  exec timeout "$limit" "$python" -W ignore -m autobahntestsuite.wstest -m "$1" -s "$1.json" >"$1.log" 2>&1
}

started=()
finish() {
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait
}
trap finish EXIT

# within SECONDS COMMAND…: waits until it succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "autobahn: waited in vain for: $*; see $out" >&2; return 1; }
    sleep 0.1
  done
}
listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port below those of outgoing connections, so that none of them takes it between now and the bind.
port=$((20000 + RANDOM % 10000))
rm -rf "$out"
mkdir -p "$out"
"$echo" serve 127.0.0.1:0 >"$out/address" 2>"$out/server.log" &
started+=($!)
within 30 test -s "$out/address"
cat >"$out/fuzzingclient.json" <<JSON
{"outdir": "server", "servers": [{"agent": "$agent", "url": "ws://$(cat "$out/address")"}],
 "cases": $cases, "exclude-cases": [], "exclude-agent-cases": {}}
JSON
cat >"$out/fuzzingserver.json" <<JSON
{"outdir": "client", "url": "ws://127.0.0.1:$port", "webport": $((port + 1)),
 "cases": $cases, "exclude-cases": [], "exclude-agent-cases": {}}
JSON

# Both roles at once.
wstest fuzzingclient &
client=$!
wstest fuzzingserver &
started+=($! "$client")
within 30 listens "$port"
timeout "$limit" "$echo" visit "127.0.0.1:$port" "$agent" 2>"$out/client.log"
wait "$client"
python3 tests/autobahn/table.py "$agent" "$out/server" "$out/client"
