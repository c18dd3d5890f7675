#!/usr/bin/env bash
# Checks alerts, dashboard and scrape configurations.
#
#   deploy/monitoring.sh check               rules, their unit tests, runbook pages; queries parse and name metrics that exist
#   deploy/monitoring.sh queries NS HUB      prints every query of the dashboard, one on a line, for one Hub
set -euo pipefail
cd "$(dirname "$0")/.."

dashboard=deploy/grafana/alkhub.json
rules=deploy/alerts/alkhub.yaml
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
complain() { echo "monitoring: $*" >&2; failed=1; }

# queries NAMESPACE HUB
queries() {
  jq -r --arg namespace "$1" --arg hub "$2" '.panels[].targets[]?.expr
    | gsub("\\$namespace"; $namespace) | gsub("\\$hub"; $hub) | gsub("\\$__rate_interval"; "1m") | gsub("\n"; " ")' "$dashboard"
}

# Whether a family is registered by a crate: by its whole name, or by what follows the operator's prefix.
exists() {
  grep -rqF "\"$1\"" hub/*/src && return
  [[ $1 == alkhub_operator_* ]] && grep -rqE "\"(alkhub_operator_)?${1#alkhub_operator_}\"" operator/src && return
  # the collector of the process, in the crate `prometheus`
  [[ $1 == process_* ]]
}

check_names() {
  { queries n h; cat "$rules"; } | grep -oE '\b(alkhub|process)_[a-z_]+' | sort -u | while read -r name; do
    exists "$name" || exists "${name%_bucket}" || echo "$name"
  done >"$scratch/missing"
  [ ! -s "$scratch/missing" ] || complain "no crate has the metric $(paste -sd' ' "$scratch/missing")"
}

check_rules() {
  promtool check rules "$rules" >"$scratch/out" 2>&1 || complain "$(cat "$scratch/out")"
  promtool test rules deploy/alerts/tests.yaml >"$scratch/out" 2>&1 || complain "$(cat "$scratch/out")"
  for alert in $(sed -n 's/^ *- alert: //p' "$rules"); do
    [ -s "docs/runbook/$alert.md" ] || complain "docs/runbook/$alert.md is missing"
    grep -q "runbook: docs/runbook/$alert.md" "$rules" || complain "$alert names no runbook page"
    for outcome in "exp_alerts: \[\]" "exp_labels"; do
      awk -v alert="alertname: $alert" -v RS='- eval_time:|- [{]eval_time:' 'index($0, alert)' deploy/alerts/tests.yaml |
        grep -q "$outcome" || complain "deploy/alerts/tests.yaml lacks a case of $alert with $outcome"
    done
  done
}

# Each query becomes a recording rule, which promtool parses.
check_queries() {
  queries n h | jq -R -s '{groups: [{name: "dashboard", rules: [split("\n")[] | select(. != "") | {record: "query", expr: .}]}]}' >"$scratch/queries.yaml"
  promtool check rules --lint=none "$scratch/queries.yaml" >"$scratch/out" 2>&1 || complain "$(cat "$scratch/out")"
}

# Debian's promtool (2.42) is built without Kubernetes discovery and says of the whole file, where the block begins:
#   line 16: field kubernetes_sd_configs not found in type config.ScrapeConfig
# It goes no further then: the block is put aside, and the rest is checked. Another promtool checks the whole file.
check_scraping() {
  mkdir -p "$scratch/alerts" && cp "$rules" "$scratch/alerts/"
  cp deploy/prometheus-dns.yaml deploy/prometheus.yaml "$scratch/"
  promtool check config "$scratch/prometheus-dns.yaml" >"$scratch/out" 2>&1 || complain "$(cat "$scratch/out")"
  if ! promtool check config "$scratch/prometheus.yaml" >"$scratch/out" 2>&1; then
    grep -q 'field kubernetes_sd_configs not found' "$scratch/out" || complain "$(cat "$scratch/out")"
    sed -e 's/kubernetes_sd_configs:/static_configs: [{targets: [pod]}]/' -e '/^      - role: pod/,/^            label:/d' deploy/prometheus.yaml >"$scratch/rest.yaml"
    promtool check config "$scratch/rest.yaml" >"$scratch/out" 2>&1 || complain "deploy/prometheus.yaml: $(cat "$scratch/out")"
  fi
}

case "${1:-}" in
check)
  check_rules
  check_queries
  check_names
  check_scraping
  [ "$failed" = 0 ] || exit 1
  echo "monitoring: $(grep -c 'alert:' "$rules") alerts with tests and runbook pages, $(queries n h | wc -l) queries of the dashboard"
  ;;
queries)
  queries "${2:?namespace}" "${3:?hub}"
  ;;
*)
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
