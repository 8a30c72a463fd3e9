#!/usr/bin/env bash
# MariaDB: while another session changes a table, information_schema.TABLES has no row for it, if the
# asking session holds a lock.
#
#   findings/mariadb-schema-skips-changing-table.sh
#
# Versions: MariaDB 10.11.19 of Debian 12.
# Expected: `SELECT ... FROM information_schema.TABLES WHERE TABLE_NAME = 'x'` says whether a table
#   exists. It waits for a statement that changes the table, as any other query of it does.
# Seen: without a lock, the query waits. In a transaction that has read any other table, or with a
#   lock of GET_LOCK(), it returns no row at once, and warning 1684: the table was skipped. Programs
#   that look up tables in this way, as many migration tools and audits do, and do not read warnings,
#   take the table for missing. `SELECT 1 FROM x LIMIT 0` waits in both cases.
# What to do: ask the table itself, and take error 1146 for "does not exist".
#
# It needs mariadb-server of Debian 12, takes 20 seconds, and exits with 1 if it sees something else.
set -euo pipefail

readonly MADE_WITH=10.11.19-MariaDB
readonly LOOK="SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'f' AND TABLE_NAME = 'changing'"
work=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null || true; wait; rm -rf "$work"' EXIT

sql() {
    mariadb --no-defaults --socket="$work/sock" --user=root --skip-column-names "$@"
}

mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/data" \
    --auth-root-authentication-method=normal >/dev/null 2>&1
mariadbd --no-defaults --user="$(id -un)" --datadir="$work/data" --socket="$work/sock" \
    --pid-file="$work/pid" --log-error="$work/log" --skip-networking \
    --innodb-buffer-pool-size=32M >/dev/null 2>&1 &
server=$!
for _ in {1..150}; do
    sql --execute='CREATE DATABASE f' 2>/dev/null && break
    sleep 0.2
done
version=$(sql --execute='SELECT VERSION()')
echo "MariaDB $version"
[[ $version == *"$MADE_WITH"* ]] || echo "this was written with $MADE_WITH" >&2
sql f --execute='CREATE TABLE changing (id INT); CREATE TABLE other (id INT); CREATE TABLE waited (id INT)'

failed=0
expect() { # what, seen, expected
    echo "$1: $2"
    if [[ $2 != "$3" ]]; then
        echo "  this has changed: it was $3" >&2
        failed=1
    fi
}

# A session has changed `changing`, and waits for a reader of `waited` before the change ends: one RENAME
# changes both, and takes its locks in the order of the names.
sql f --execute='BEGIN; SELECT COUNT(*) FROM waited; DO SLEEP(12)' >/dev/null &
reader=$!
sleep 0.5
sql f --execute='RENAME TABLE changing TO changed, waited TO waited_for' &
renaming=$!
sleep 0.5

# What the statements return within a second.
asked() { # statements
    local seen
    seen=$(timeout 1 mariadb --no-defaults --socket="$work/sock" --user=root --skip-column-names --show-warnings \
        f --execute="$1" 2>&1) || seen="waits"
    tr '\n' ' ' <<<"$seen" | sed 's/ *$//'
}
skipped="0 Warning (Code 1684): Table 'f'.'changing' was skipped since its definition is being modified by concurrent DDL statement"
expect "without a lock" "$(asked "$LOOK")" "waits"
expect "in a transaction that has read a table" "$(asked "BEGIN; SELECT 'read' FROM other; $LOOK")" \
    "$skipped"
expect "with a lock of GET_LOCK" "$(asked "DO GET_LOCK('any', 1); $LOOK")" \
    "$skipped"
expect "the table itself, with that lock" "$(asked "DO GET_LOCK('any', 1); SELECT 1 FROM changing LIMIT 0")" "waits"
wait "$reader" "$renaming"
exit "$failed"
