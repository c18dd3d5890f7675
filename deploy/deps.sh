#!/usr/bin/env bash
# Installs the Debian packages that alkhub's development and tests need, and starts no service.
#
#   deploy/deps.sh postgresql   what `make dev` needs
#   deploy/deps.sh cluster      what `make cluster` and the other targets with a cluster, its images or charts need;
#                               fails first when the machine lacks what Debian 12 cannot give: Rust as
#                               rust-toolchain.toml says, Go 1.25
#   deploy/deps.sh all          what `make test` needs: the same, Node 20, and Python 2.7 for Autobahn's test suite
#
# Does nothing when all are there, or where there is no dpkg. Not root: names what is missing and how to install it.
set -euo pipefail
cd "$(dirname "$0")/.."

# at_least WANTED FOUND: whether a version is not below another.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# lacks NAME WANTED FOUND: notes what is too old or not there at all.
lacking=()
lacks() { at_least "$2" "${3:-0}" || lacking+=("$1 >= $2 (${3:-none} found)"); }

# What Debian 12 has not, or not new enough. Each is asked where it is used: a version may be chosen by the folder.
check_machine() {
  lacks Rust "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" "$(rustc --version 2>/dev/null | cut -d' ' -f2)"
  lacks Go "$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' tests/cluster/go/go.mod)" \
    "$(cd tests/cluster/go && go env GOVERSION 2>/dev/null | sed 's/^go//')"
  [ "$1" = cluster ] || check_languages
  [ ${#lacking[@]} -gt 0 ] || return 0
  printf -v list '%s, ' "${lacking[@]}"
  echo "this machine lacks ${list%, }: Debian 12 has them not, or older; install them, and see that PATH finds them" >&2
  exit 1
}

check_languages() {
  lacks Node 20 "$(node --version 2>/dev/null | sed 's/^v//')"
  lacks npm 9 "$(npm --version 2>/dev/null)"
  lacks "Python 2" 2.7 "$(tests/autobahn/python.sh >/dev/null && echo 2.7)"
}

case "${1:-}" in
  postgresql)
    # Whatever version is there will do.
    ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || exit 0
    packages=(postgresql)
    ;;
  cluster | all)
    check_machine "$1"
    mapfile -t packages < <(sed -e 's/^#.*//' -e '/^[[:space:]]*$/d' tests/cluster/deps.txt deploy/deps.txt)
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

command -v dpkg-query >/dev/null || { echo "no Debian: see that ${packages[*]} are there" >&2; exit 0; }
missing=()
for line in "${packages[@]}"; do
  package=${line%% | *}
  # `package | command`: not needed where the command succeeds.
  [ "$package" = "$line" ] || ! (eval "${line#* | }") >/dev/null 2>&1 || continue
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "missing Debian packages: ${missing[*]}" >&2
  echo "install them with: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

echo "installing ${missing[*]}"
# Debian's servers start on install: forbid it while this runs, and make no database cluster.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
