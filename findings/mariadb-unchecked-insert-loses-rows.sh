#!/usr/bin/env bash
# MariaDB: with unique_checks and foreign_key_checks off, a failed INSERT removes rows of earlier
# INSERTs.
#
#   findings/mariadb-unchecked-insert-loses-rows.sh
#
# Versions: MariaDB 10.11.19 of Debian 12.
# Expected: these two settings concern only keys. mariadb-dump writes them into each dump, and
#   guides to fast loading name them. If a statement fails for another reason, only this statement
#   is undone, as without the settings. The commit message of MDEV-24818 announces a change: on an
#   error, the whole transaction is rolled back.
# Seen: neither. A transaction inserts rows 1 and 2 into an empty table, and a row into another
#   table. An INSERT of rows 3 and 4 fails because a value is out of range (1264). Rows 5 and 6 are
#   inserted, and COMMIT succeeds. Then rows 1 and 2 are missing. Rows 5 and 6 and the row of the
#   other table are stored.
# What to do: leave the settings on if a statement can fail, or roll back the transaction after any
#   error.
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
    sql --execute='DO 0' 2>/dev/null && break
    sleep 0.2
done
version=$(sql --execute='SELECT VERSION()')
echo "MariaDB $version"
[[ $version == *"$MADE_WITH"* ]] || echo "this was written with $MADE_WITH" >&2

# Sets `seen` to the rows that the transaction leaves.
load() { # value of both settings
    sql --execute='
        CREATE OR REPLACE DATABASE f;
        CREATE TABLE f.e (id INT PRIMARY KEY, v TINYINT NOT NULL) ENGINE=InnoDB;
        CREATE TABLE f.other (id INT PRIMARY KEY) ENGINE=InnoDB;
        INSERT INTO f.other VALUES (1);'
    sql --force f >"$work/output" 2>"$work/errors" <<SQL
SET unique_checks = $1, foreign_key_checks = $1;
START TRANSACTION;
INSERT INTO other VALUES (2);
INSERT INTO e VALUES (1, 1), (2, 2);
INSERT INTO e VALUES (3, 3), (4, 1000);
INSERT INTO e VALUES (5, 5), (6, 6);
COMMIT;
SQL
    # The only error is that of the third INSERT: COMMIT reports none.
    [[ $(grep -c '^ERROR' "$work/errors") == 1 ]]
    grep '^ERROR 1264' "$work/errors"
    seen=$(sql --execute='SELECT CONCAT(
        (SELECT GROUP_CONCAT(id ORDER BY id) FROM f.e), " and ",
        (SELECT GROUP_CONCAT(id ORDER BY id) FROM f.other))')
}

failed=0
expect() { # what, expected
    echo "$1: rows $seen in the other table"
    if [[ $seen != "$2" ]]; then
        echo "  this has changed: it was $2" >&2
        failed=1
    fi
}
load 1
expect "checks on" "1,2,5,6 and 1,2"
load 0
expect "checks off" "5,6 and 1,2"
exit "$failed"
