#!/usr/bin/env bash
# Installs the Debian packages that alkhub's development and tests need, and starts no service.
#
#   deploy/deps.sh postgresql   what `make dev` needs
#   deploy/deps.sh all          what `make test` needs
#
# Does nothing when all are there. Not root: names what is missing and how to install it.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  postgresql)
    # Whatever version is there will do.
    ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || exit 0
    packages=(postgresql)
    ;;
  all) mapfile -t packages < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' tests/cluster/deps.txt deploy/deps.txt) ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
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
