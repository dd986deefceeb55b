# shellcheck shell=bash
# A throw-away PostgreSQL server for the tests, the demo and the benchmark. A bash script sources this file, and then has:
#
#   server_start [setting=value ...]   starts it, for example server_start shared_preload_libraries=wahook fsync=on;
#                                      after server_stop: starts it again, its data and earlier settings kept
#   server_stop [mode]                 stops it: fast, or the mode of pg_ctl that is given
#   server_wait                        waits until it takes connections, for after a crash; fails after a minute
#   server_remove                      stops it and removes all it has; happens by itself when the script ends, however it ends
#   as_server_user command ...         runs a command, in $server_dir, as the user that owns the server
#   sql [psql option ...]              psql as superuser that stops at the first error
#
# Everything is in $server_dir: the data, the socket (there is no TCP), the log, the temporary files. PostgreSQL refuses
# to run as root, so for root the owner is the user postgres. Needs Linux and the GNU tools.

server_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
server_bindir=$("${PG_CONFIG:-pg_config}" --bindir)
server_dir=

# Connection settings of whoever runs this must not reach the tests.
for server_var in "${!PG@}"; do
	[[ $server_var == PG_* ]] || unset "$server_var"
done
unset server_var

# In the background and waited for: bash runs a trap only when the command in the foreground has ended, but leaves a wait at once.
as_server_user() {
	local become=()
	if ((EUID == 0)); then
		become=(setpriv --reuid="$server_user" --regid="$(id -g "$server_user")" --init-groups)
	fi
	(
		cd "$server_dir" || exit
		# Bash lets background commands ignore Ctrl-C.
		exec "${become[@]}" env --default-signal=INT,QUIT HOME="$server_dir" TMPDIR="$server_dir/tmp" "$@"
	) <&0 &
	wait $!
}

server_create() {
	server_user=$(id -un)
	if ((EUID == 0)); then
		server_user=postgres
		id "$server_user" >/dev/null 2>&1 || server_user=nobody
	fi
	server_dir=$(mktemp -d "${TMPDIR:-/tmp}/wahook.XXXXXX")
	trap server_on_exit EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	server_dir=$(cd "$server_dir" && pwd -P)
	mkdir "$server_dir/tmp"
	((EUID != 0)) || chown -R "$server_user:" "$server_dir"

	export PATH=$server_bindir:$PATH PGHOST=$server_dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres LANG=C.UTF-8
	unset LC_ALL LANGUAGE

	as_server_user initdb --no-sync -A trust -U postgres -E UTF8 --locale=C.UTF-8 -D data >"$server_dir/initdb.log" 2>&1 || {
		cat "$server_dir/initdb.log" >&2
		return 1
	}
	server_configure listen_addresses= "unix_socket_directories=$server_dir" port=5432 \
		timezone=UTC log_timezone=UTC "log_line_prefix=%m [%p] %q%u@%d " fsync=off
}

# Of a setting that is there twice, the last one counts.
server_configure() {
	local setting quoted
	for setting; do
		quoted=${setting#*=}
		echo "${setting%%=*} = '${quoted//\'/\'\'}'"
	done >>"$server_dir/data/postgresql.conf"
}

server_start() {
	[[ -n $server_dir ]] || server_create
	server_configure "$@"
	as_server_user pg_ctl start -s -w -t 60 -D data -l server.log
}

server_stop() {
	as_server_user pg_ctl stop -s -w -t 60 -m "${1:-fast}" -D data
}

server_wait() {
	local tries
	for ((tries = 0; tries < 600; tries++)); do
		! pg_isready -q || return 0
		sleep 0.1
	done
	echo "the server takes no connections" >&2
	return 1
}

sql() { psql -X -q -v ON_ERROR_STOP=1 "$@"; }

# What still runs in $server_dir: the server, those that a test started there, their clients.
server_processes() {
	# find fails where a process ends meanwhile.
	{ find /proc/[0-9]* -maxdepth 1 -name cwd -lname "$server_dir*" -printf '%h\n' 2>/dev/null || true; } | sed 's,/proc/,,'
}

server_remove() {
	[[ -n $server_dir ]] || return 0
	local job pids tries
	for job in $(jobs -p); do
		kill "$job" 2>/dev/null || true
	done
	# To PostgreSQL, QUIT is an immediate shutdown. KILL is for those that still have not gone after five seconds.
	for ((tries = 0; tries < 60; tries++)); do
		pids=$(server_processes)
		[[ -n $pids ]] || break
		# shellcheck disable=SC2086 # a list of numbers
		case $tries in
			0) kill -QUIT $pids 2>/dev/null || true ;;
			50) kill -KILL $pids 2>/dev/null || true ;;
		esac
		sleep 0.1
	done
	rm -rf "$server_dir"
	server_dir=
}

# Leaves the log in results/, because its directory is going to be removed.
server_keep_log() {
	[[ -f $server_dir/server.log ]] || return 0
	mkdir -p "$server_root/results"
	cp "$server_dir/server.log" "$server_root/results/server.log"
}

server_on_exit() {
	local status=$?
	trap '' HUP INT TERM # a second Ctrl-C must not end the clean-up
	if ((status > 0 && status < 128)) && [[ -f $server_dir/server.log ]]; then
		server_keep_log || true
		echo "the end of the server's log, all of which is in results/server.log:" >&2
		tail -n 20 "$server_dir/server.log" >&2
	fi
	server_remove
	exit "$status"
}
