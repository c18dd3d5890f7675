#!/usr/bin/env bash
# Joins the fragments of changelog.d into CHANGELOG.md, under the version and today's date, and deletes them.
#
#   deploy/changelog.sh VERSION [FOLDER]
#
# A section "VERSION (unreleased)" is dated and takes the fragments at its end; without one, a section is made above the
# newest. FOLDER is where CHANGELOG.md and changelog.d lie (default: the repository).
set -euo pipefail

fail() { echo "changelog: $*" >&2; exit 1; }
[[ ${1:-} =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "VERSION=x.y.z is needed, not '${1:-}'"
version=$1
cd "${2:-$(dirname "$0")/..}"
heading="## $version ($(date -u +%F))"
open=""
if grep -qxF "## $version (unreleased)" CHANGELOG.md; then
  open="## $version (unreleased)"
elif grep -qF "## $version (" CHANGELOG.md; then
  fail "$version is released already"
fi

entries=$(mktemp)
trap 'rm -f "$entries"' EXIT
joined=()
for kind in breaking security added changed fixed; do
  first=yes
  for fragment in changelog.d/*."$kind".md; do
    [ -e "$fragment" ] || continue
    [ -z "$first" ] || printf '\n### %s\n\n' "${kind^}" >>"$entries"
    first=""
    # One item of a list: the lines after the first stand under its text.
    sed -e '/^$/d' -e '1s/^/- /' -e '2,$s/^/  /' "$fragment" >>"$entries"
    joined+=("$fragment")
  done
done
[ ${#joined[@]} -gt 0 ] || [ -n "$open" ] || fail "there is no fragment in changelog.d"

awk -v heading="$heading" -v open="$open" -v entries="$entries" '
  function put(  line) { while ((getline line < entries) > 0) print line; close(entries) }
  open != "" && $0 == open { print heading; inside = 1; next }
  /^## / && inside { put(); print ""; inside = 0 }
  /^## / && open == "" && !made { print heading; put(); print ""; made = 1 }
  { print }
  END { if (inside) put() }
' CHANGELOG.md >CHANGELOG.md.new
mv CHANGELOG.md.new CHANGELOG.md
[ ${#joined[@]} -eq 0 ] || rm -- "${joined[@]}"
echo "changelog: ${#joined[@]} fragments joined as $version"
