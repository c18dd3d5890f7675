#!/bin/sh
# Starts Redis as the official image does: `redis-server` or its flags or a configuration file as arguments, the data
# folder given to user 999, and protected mode off unless asked for (Debian's build has it on).
set -eu

case "${1:-}" in -* | *.conf) set -- redis-server "$@" ;; esac
[ "${1:-}" = redis-server ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
	find . \! -user redis -exec chown redis '{}' +
	exec /usr/bin/setpriv --reuid=999 --regid=1000 --clear-groups "$0" "$@"
fi

[ "$(umask)" != 0022 ] || umask 0077
case " $* " in *" --protected-mode "*) ;; *) set -- "$@" --protected-mode no ;; esac
exec "$@"
