#!/usr/bin/env bash
# Galera without a binary log: rows of a failed statement, which was rolled back, reach the other
# node.
#
#   findings/galera-failed-statement-replicated.sh
#
# Versions: MariaDB 10.11.19 and Galera 26.4.23 of Debian 12, two nodes, `log_bin` OFF as by default.
# Expected: a statement that fails in a transaction is undone on each node. MariaDB's documentation
#   lists `binlog_format = ROW` among the mandatory options of a Galera node, but not `log_bin`.
# Seen: an INSERT of 2,001 rows whose last row breaks a CHECK fails with 4025. The transaction
#   inserts one more row and commits. The first node has that one row. The second node has 1,819
#   rows: all full row events (8 KiB, `binlog_row_event_max_size`) of the failed INSERT are in the
#   write set. Both nodes are Synced, and no log has an error. With 10 rows, or with `log_bin` ON,
#   both nodes have one row.
# What to do: ROLLBACK after an error, or run each node with `log_bin = ON`.
#
# It needs mariadb-server and galera-4 of Debian 12, takes 30 seconds, and exits with 1 if it sees
# something else.
set -euo pipefail

readonly MADE_WITH=10.11.19-MariaDB
readonly PROVIDER=/usr/lib/galera/libgalera_smm.so
work=$(mktemp -d)
nodes=()

stop_nodes() {
    local pid
    for pid in "${nodes[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    nodes=()
}
trap 'stop_nodes; rm -rf "$work"' EXIT

sql() { # node, statements
    mariadb --no-defaults --socket="$work/$1.sock" --user=root --skip-column-names --execute="$2"
}

status() { # node, name
    sql "$1" "SHOW STATUS LIKE '$2'" 2>/dev/null | cut -f2
}

free_ports() {
    python3 -c 'import socket
held = [socket.socket() for _ in range(4)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*[one.getsockname()[1] for one in held])'
}

start_node() { # node, port of the group, port of state transfers, cluster, options
    local node=$1 port=$2 transfers=$3 cluster=$4
    shift 4
    mariadbd --no-defaults --user="$(id -un)" --datadir="$work/$node" --socket="$work/$node.sock" \
        --pid-file="$work/$node.pid" --log-error="$work/$node.log" --skip-networking \
        --innodb-buffer-pool-size=32M --binlog-format=ROW --innodb-autoinc-lock-mode=2 \
        --wsrep-on=ON --wsrep-provider="$PROVIDER" --wsrep-cluster-name=findings \
        --wsrep-cluster-address="gcomm://$cluster" --wsrep-node-address="127.0.0.1:$port" \
        --wsrep-provider-options="gmcast.listen_addr=tcp://127.0.0.1:$port;ist.recv_addr=127.0.0.1:$transfers;gcache.size=16M" \
        "$@" >/dev/null 2>&1 &
    nodes+=($!)
    for _ in {1..200}; do
        if [[ $(status "$node" wsrep_ready) == ON ]]; then
            return
        fi
        sleep 0.2
    done
    cat "$work/$node.log" >&2
    echo "node $node did not start" >&2
    exit 1
}

# On the first node, one transaction has a failed INSERT of this many rows and one good row, and
# commits. Sets `seen` to the number of rows and the state of both nodes.
rows_after() { # rows of the failed statement, options of the nodes
    local rows=$1 ports values
    shift
    rm -rf "$work"/{a,b}
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/a" \
        --auth-root-authentication-method=normal >/dev/null 2>&1
    cp -r "$work/a" "$work/b"
    read -r -a ports < <(free_ports)
    start_node a "${ports[0]}" "${ports[1]}" "" "$@"
    # The second node has the same data as the first. With this setting, it requests no copy.
    printf 'version: 2.1\nuuid: %s\nseqno: %s\nsafe_to_bootstrap: 0\n' \
        "$(status a wsrep_cluster_state_uuid)" "$(status a wsrep_last_committed)" >"$work/b/grastate.dat"
    start_node b "${ports[2]}" "${ports[3]}" "127.0.0.1:${ports[0]}" "$@"

    sql a "CREATE DATABASE f; CREATE TABLE f.e (id INT PRIMARY KEY, v INT CHECK (v < 100)) ENGINE=InnoDB"
    values=$(printf '(%s,1),' $(seq "$rows"))
    # --force: continue after the error, like a program that skips a bad batch.
    mariadb --no-defaults --socket="$work/a.sock" --user=root --force f 2>"$work/errors" <<SQL
START TRANSACTION;
INSERT INTO e VALUES $values (50000, 1000);
INSERT INTO e VALUES (60000, 1);
COMMIT;
SQL
    grep -q 'ERROR 4025' "$work/errors"
    seen="$(sql a 'SELECT COUNT(*) FROM f.e')"
    seen+=" $(sql b 'SET wsrep_sync_wait = 1; SELECT COUNT(*) FROM f.e')"
    seen+=" $(status a wsrep_local_state_comment) $(status b wsrep_local_state_comment)"
    stop_nodes
}

version=$(mariadbd --no-defaults --version)
echo "$version"
[[ $version == *"$MADE_WITH"* ]] || echo "this was written with $MADE_WITH" >&2

failed=0
expect() { # what, expected
    printf '%-34s nodes have %s\n' "$1:" "$seen"
    if [[ $seen != "$2" ]]; then
        echo "  this has changed: it was $2" >&2
        failed=1
    fi
}
rows_after 10
expect "11 rows, no binary log" "1 1 Synced Synced"
rows_after 2000
expect "2,001 rows, no binary log" "1 1819 Synced Synced"
rows_after 2000 --log-bin=binlog --log-slave-updates
expect "2,001 rows, with a binary log" "1 1 Synced Synced"
exit "$failed"
