#!/bin/sh
# Starts PostgreSQL as the official image does: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS,
# POSTGRES_HOST_AUTH_METHOD, each also as NAME_FILE, PGDATA, and /docker-entrypoint-initdb.d. A folder that holds a
# database already is started as it is.
set -eu

fail() { echo "Error: $*" >&2; exit 1; }

# setting NAME DEFAULT: from NAME, or from the file that NAME_FILE names.
setting() {
	eval "value=\${$1:-} file=\${$1_FILE:-}"
	[ -z "$value" ] || [ -z "$file" ] || fail "both $1 and $1_FILE are set (but are exclusive)"
	[ -z "$file" ] || value=$(cat "$file")
	export "$1=${value:-$2}"
	unset "$1_FILE"
}

case "${1:-}" in -*) set -- postgres "$@" ;; esac
[ "${1:-}" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" /run/postgresql
	chown -R postgres "$PGDATA" /run/postgresql
	chmod 0700 "$PGDATA"
	exec /usr/bin/setpriv --reuid=999 --regid=999 --clear-groups "$0" "$@"
fi

mkdir -p "$PGDATA"
chmod 0700 "$PGDATA" 2>/dev/null || true
[ -s "$PGDATA/PG_VERSION" ] && exec "$@"

setting POSTGRES_PASSWORD ""
setting POSTGRES_USER postgres
setting POSTGRES_DB "$POSTGRES_USER"
setting POSTGRES_INITDB_ARGS ""
: "${POSTGRES_HOST_AUTH_METHOD:=}"
[ -n "$POSTGRES_PASSWORD" ] || [ "$POSTGRES_HOST_AUTH_METHOD" = trust ] ||
	fail "Database is uninitialized and superuser password is not specified: set POSTGRES_PASSWORD"

# initdb wants the password in a file or a pipe; a root that is read-only has no place for a file.
eval "printf '%s\n' \"\$POSTGRES_PASSWORD\" | initdb -D '$PGDATA' --username='$POSTGRES_USER' --pwfile=/dev/stdin $POSTGRES_INITDB_ARGS"
printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"

shift
export PGUSER="$POSTGRES_USER" PGPASSWORD="$POSTGRES_PASSWORD" PGHOST=/var/run/postgresql
pg_ctl -D "$PGDATA" -w start -o "-c listen_addresses='' $*"
[ "$POSTGRES_DB" = postgres ] ||
	psql -v ON_ERROR_STOP=1 --no-psqlrc -d postgres -v db="$POSTGRES_DB" <<'SQL'
CREATE DATABASE :"db";
SQL
for script in /docker-entrypoint-initdb.d/*; do
	case "$script" in
	*.sh) echo "$0: running $script"; . "$script" ;;
	*.sql) echo "$0: running $script"; psql -v ON_ERROR_STOP=1 --no-psqlrc -d "$POSTGRES_DB" -f "$script" ;;
	esac
done
pg_ctl -D "$PGDATA" -m fast -w stop
unset PGUSER PGPASSWORD PGHOST
echo "PostgreSQL init process complete; ready for start up."
exec postgres "$@"
