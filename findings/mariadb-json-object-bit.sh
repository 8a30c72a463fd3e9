#!/usr/bin/env bash
# MariaDB: JSON_OBJECT and JSON_ARRAYAGG of a BIT column write invalid JSON, without a warning.
#
#   findings/mariadb-json-object-bit.sh
#
# Versions: MariaDB 10.11.19 of Debian 12. For comparison Python's json module.
# Expected: the JSON functions write valid JSON for each type of column.
# Seen: for a BIT(1) column, which several mappers use for a boolean, the functions write the raw
#   byte without quotes: {"id": 1, "flag": \u0001}. For BIT(8) they write the byte itself, as in
#   {"b": A}. JSON_VALID of this is 0, and a JSON column refuses it with error 4025. But SELECT ...
#   INTO OUTFILE, or a client that writes a row a line, exports it without a warning, and only the
#   next loader fails. (MySQL 9.7.4 writes a text, "base64:type16:AQ==".)
# What to do: write flag + 0 or flag = 1 in JSON_OBJECT.
#
# It needs mariadb-server of Debian 12 and python3, takes 10 seconds, and exits with 1 if it sees
# something else.
set -euo pipefail

readonly MADE_WITH=10.11.19-MariaDB
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

failed=0
expect() { # what, seen, expected
    echo "$1: $2"
    if [[ $2 != "$3" ]]; then
        echo "  this has changed: it was $3" >&2
        failed=1
    fi
}

sql f --execute='
    CREATE TABLE documents (doc JSON NOT NULL);
    CREATE TABLE flags (id INT, flag BIT(1), b BIT(8));
    INSERT INTO flags VALUES (1, 1, 65)'
of_flags() { # expression
    sql f --raw --execute="SELECT $1 FROM flags"
}
object='JSON_OBJECT("id", id, "flag", flag)'
expect "JSON_OBJECT of BIT(1)" "$(of_flags "$object")" '{"id": 1, "flag": \u0001}'
expect "JSON_OBJECT of BIT(8)" "$(of_flags 'JSON_OBJECT("b", b)')" '{"b": A}'
expect "JSON_ARRAYAGG of BIT(1)" "$(of_flags 'JSON_ARRAYAGG(flag)')" '[\u0001]'
expect "JSON_VALID of the first" "$(of_flags "JSON_VALID($object)")" 0
stored=$(sql f --execute="INSERT INTO documents SELECT $object FROM flags" 2>&1 || true)
expect "into a JSON column" "$(grep -o 'ERROR 4025' <<<"$stored")" "ERROR 4025"
if of_flags "$object" | python3 -c 'import json, sys; json.load(sys.stdin)' 2>/dev/null; then
    python=reads
else
    python=refuses
fi
expect "Python" "$python it" "refuses it"
expect "JSON_OBJECT of flag + 0" "$(of_flags 'JSON_OBJECT("flag", flag + 0)')" '{"flag": 1}'
exit "$failed"
