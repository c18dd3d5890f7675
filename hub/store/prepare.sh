#!/usr/bin/env bash
# Writes hub/store/.sqlx anew: what sqlx's macros know of every statement, so that builds need no database.
#
#   hub/store/prepare.sh           writes it
#   hub/store/prepare.sh --check   compares it with what is committed; fails when they differ
#
# Starts a Postgres of its own from Debian's binaries (as user postgres when run by root), applies the migrations and
# checks the crate against it. No Rust program does this, since none that needs this crate would build before.
set -euo pipefail
cd "$(dirname "$0")"

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || { echo "prepare.sh: no PostgreSQL found: apt-get install postgresql" >&2; exit 1; }

work=$(mktemp -d /tmp/alkhub-sqlx-XXXXXX)
as=()
if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chown postgres: "$work"
fi
# Postgres wants a folder that it can stand in.
pg() { (cd "$work" && "${as[@]}" "$bin/$1" "${@:2}"); }
trap 'pg pg_ctl -D "$work/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

pg initdb --no-sync --auth=trust --username=alkhub --encoding=UTF8 --no-locale -D "$work/data" >/dev/null
pg pg_ctl -D "$work/data" -l "$work/log" -w -o "-c listen_addresses= -k $work -c fsync=off" start >/dev/null
for migration in migrations/*.sql; do
    pg psql -h "$work" -U alkhub -d postgres -v ON_ERROR_STOP=1 -q -1 <"$migration"
done

# An absolute path and a changed variable make cargo check the crate again (build.rs).
new=$PWD/.sqlx.new
rm -rf "$new" && mkdir "$new"
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$new DATABASE_URL="postgres://alkhub@localhost/postgres?host=$work" \
    cargo check --quiet -p alkhub-store --lib

if [ "${1:-}" = --check ]; then
    diff -r .sqlx "$new" || { rm -rf "$new"; echo "prepare.sh: .sqlx is stale: run hub/store/prepare.sh" >&2; exit 1; }
    rm -rf "$new"
else
    rm -rf .sqlx && mv "$new" .sqlx
fi
