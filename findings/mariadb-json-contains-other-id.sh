#!/usr/bin/env bash
# MariaDB: JSON_CONTAINS and JSON_OVERLAPS find an ID of 19 digits in a document with another ID.
#
#   findings/mariadb-json-contains-other-id.sh
#
# Versions: MariaDB 10.11.19 of Debian 12.
# Expected: 1234567890123456788 is not in {"id":1234567890123456789}. Both numbers fit BIGINT.
#   MariaDB keeps the text of a JSON document with all digits, JSON_EQUALS and JSON_NORMALIZE
#   compare all digits, and JSON_VALUE returns all. (MySQL 9.7.4 returns 0.)
# Seen: JSON_CONTAINS and JSON_OVERLAPS return 1 for both numbers. They compare doubles, and 256
#   neighbouring integers of this size are the same double. So a WHERE clause over 64-bit IDs in
#   documents selects rows of other IDs, and a DELETE deletes them.
# What to do: compare JSON_VALUE(document, path) with the ID, or store IDs as JSON strings.
#
# It needs mariadb-server of Debian 12, takes 10 seconds, and exits with 1 if it sees something else.
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
    CREATE TABLE e (doc JSON);
    INSERT INTO e VALUES
        ("{\"id\":1234567890123456787}"), ("{\"id\":1234567890123456788}"), ("{\"id\":1234567890123456789}")'

found() { # condition
    sql f --execute="SELECT GROUP_CONCAT(JSON_VALUE(doc, '$.id') ORDER BY 1 SEPARATOR ' ') FROM e WHERE $1"
}
# shellcheck disable=SC2016 # a JSON path, not a variable
{
    expect "JSON_CONTAINS(doc, '1234567890123456788', '\$.id')" \
        "$(found "JSON_CONTAINS(doc, '1234567890123456788', '\$.id')")" \
        "1234567890123456787 1234567890123456788 1234567890123456789"
    expect "JSON_OVERLAPS(doc, '{\"id\":1234567890123456788}')" \
        "$(found "JSON_OVERLAPS(doc, '{\"id\":1234567890123456788}')")" \
        "1234567890123456787 1234567890123456788 1234567890123456789"
    # For comparison: functions that compare all digits.
    expect "JSON_EQUALS(doc, '{\"id\":1234567890123456788}')" \
        "$(found "JSON_EQUALS(doc, '{\"id\":1234567890123456788}')")" "1234567890123456788"
    expect "JSON_VALUE(doc, '\$.id') = '1234567890123456788'" \
        "$(found "JSON_VALUE(doc, '\$.id') = '1234567890123456788'")" "1234567890123456788"
}
exit "$failed"
