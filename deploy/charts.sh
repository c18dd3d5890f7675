#!/usr/bin/env bash
# Keeps what the charts copy, and checks the charts.
#
#   deploy/charts.sh sync     copies CRDs, alerts and dashboard into the charts; writes the tables of values
#   deploy/charts.sh bless    writes anew what the charts render for charts/alkhub/ci/*.yaml
#   deploy/charts.sh check    all of it is fresh; lint; wrong values are refused; RBAC is what docs/OPERATOR.md says
#
# HELM names helm (default: target/cluster/bin/helm, else the one in PATH).
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HELM_CACHE_HOME="$scratch/cache" HELM_CONFIG_HOME="$scratch/config" HELM_DATA_HOME="$scratch/data"
failed=0
complain() { echo "charts: $*" >&2; failed=1; }

HELM=${HELM:-target/cluster/bin/helm}
command -v "$HELM" >/dev/null || HELM=helm
need_helm() {
  command -v "$HELM" >/dev/null || { echo "charts: no helm: build it with 'alkhub-cluster build', or set HELM" >&2; exit 1; }
}

copies=(
  crds/hub.yaml               charts/alkhub-crds/files/hub.yaml
  crds/spoke.yaml             charts/alkhub-crds/files/spoke.yaml
  deploy/alerts/alkhub.yaml   charts/alkhub/files/alerts.yaml
  deploy/grafana/alkhub.json  charts/alkhub/files/dashboard.json
)

# A table of a chart's values, from values.yaml: each value stands on one line, with its comment above it.
values_table() {
  echo "| value | default | what |"
  echo "|---|---|---|"
  awk '
    /^ *$/ { comment = ""; next }
    /^ *#/ { sub(/^ *# ?/, ""); comment = comment (comment == "" ? "" : " ") $0; next }
    {
      match($0, /^ */); depth = RLENGTH / 2
      key = default = $0; sub(/^ */, "", key); sub(/:.*/, "", key); sub(/^[^:]*: */, "", default)
      path[depth] = key; name = path[0]; for (i = 1; i <= depth; i++) name = name "." path[i]
      if (default !~ /:$/ && $0 !~ /:$/) printf "| `%s` | `%s` | %s |\n", name, default, comment
      comment = ""
    }' "$1"
}

# A README with its table of values as values.yaml has it now.
readme() {
  sed -n '1,/<!-- values: begin/p' "$1/README.md"
  values_table "$1/values.yaml"
  sed -n '/<!-- values: end/,$p' "$1/README.md"
}

render() { "$HELM" template alkhub charts/alkhub --namespace alkhub-system --values "$1" "${@:2}"; }

# GROUP RESOURCE VERB, one on a line: from the chart's rules, and from the tables of docs/OPERATOR.md.
expand() { awk -F'|' '{ n = split($2, r, /, */); m = split($3, v, /, */); for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) print $1 "|" r[i] "|" v[j] }' | sort -u; }
chart_rules() {
  cat charts/alkhub/templates/_rules.tpl charts/alkhub/templates/rbac.yaml |
    awk '/apiGroups: \[/ { g = inside($0) } /resources: \[/ { r = inside($0) } /verbs: \[/ { print g "|" r "|" inside($0) }
         function inside(l) { sub(/^[^[]*\[/, "", l); sub(/\].*/, "", l); gsub(/"/, "", l); return l }' | expand
}
documented_rules() {
  sed -n '/^## What it may do/,/^## What it makes/p' docs/OPERATOR.md | awk -F' *\\| *' '/^\|/ && $2 != "group" && $2 !~ /^-/ { g = $2; gsub(/"/, "", g); print g "|" $3 "|" $4 }' | expand
}

check_copies() {
  for ((i = 0; i < ${#copies[@]}; i += 2)); do
    cmp -s "${copies[i]}" "${copies[i + 1]}" || complain "${copies[i + 1]} differs from ${copies[i]}: run deploy/charts.sh sync"
  done
  for chart in charts/alkhub charts/alkhub-crds; do
    readme "$chart" | cmp -s - "$chart/README.md" || complain "the table of values in $chart/README.md is stale: run deploy/charts.sh sync"
  done
}

check_rendered() {
  "$HELM" lint --strict --quiet charts/alkhub-crds || complain "charts/alkhub-crds does not lint"
  for values in charts/alkhub/ci/*.yaml; do
    case=$(basename "$values" .yaml)
    "$HELM" lint --strict --quiet charts/alkhub --values "$values" || complain "charts/alkhub does not lint with $values"
    render "$values" >"$scratch/$case.yaml"
    diff -u "charts/alkhub/ci/golden/$case.yaml" "$scratch/$case.yaml" >&2 ||
      complain "charts/alkhub renders something else for $values: if that is meant, run deploy/charts.sh bless"
  done
  "$HELM" template alkhub-crds charts/alkhub-crds >"$scratch/crds.yaml"
  [ "$(grep -c 'helm.sh/resource-policy: keep' "$scratch/crds.yaml")" = 2 ] || complain "a CRD would go with its release"
}

check_refused() {
  while read -r setting word; do
    if message=$(render charts/alkhub/ci/default.yaml --set "$setting" 2>&1); then
      complain "$setting is accepted"
    elif [[ $message != *"$word"* ]]; then
      complain "the answer to $setting does not name $word: $message"
    fi
  done < <(grep -v '^#' charts/alkhub/ci/refused.txt)
}

check_schema() {
  for chart in charts/alkhub charts/alkhub-crds; do
    bare=$(jq -r '[paths(objects) as $p | select($p[-2] == "properties") | {p: $p, d: (getpath($p).description // "")} | select(.d == "") | .p | map(select(. != "properties")) | join(".")] | join(" ")' "$chart/values.schema.json")
    [ -z "$bare" ] || complain "$chart/values.schema.json describes nothing at: $bare"
    open=$(jq -r '[paths(objects) as $p | getpath($p) | select(.properties? and .additionalProperties != false)] | length' "$chart/values.schema.json")
    [ "$open" = 0 ] || complain "$chart/values.schema.json has $open open objects"
  done
}

check_rules() {
  diff <(documented_rules) <(chart_rules) >"$scratch/rules" ||
    complain "RBAC of the chart (>) is not what docs/OPERATOR.md says (<):"$'\n'"$(grep '^[<>]' "$scratch/rules")"
}

case "${1:-}" in
sync)
  for ((i = 0; i < ${#copies[@]}; i += 2)); do
    mkdir -p "$(dirname "${copies[i + 1]}")" && cp "${copies[i]}" "${copies[i + 1]}"
  done
  for chart in charts/alkhub charts/alkhub-crds; do
    readme "$chart" >"$scratch/README.md" && cp "$scratch/README.md" "$chart/README.md"
  done
  ;;
bless)
  need_helm
  for values in charts/alkhub/ci/*.yaml; do
    render "$values" >"charts/alkhub/ci/golden/$(basename "$values")"
  done
  ;;
check)
  need_helm
  check_copies
  check_schema
  check_rules
  check_refused
  check_rendered
  [ "$failed" = 0 ] && echo "charts: fresh, linted, rendered as before" || exit 1
  ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
