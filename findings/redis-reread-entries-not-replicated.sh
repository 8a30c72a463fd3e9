#!/usr/bin/env bash
# Redis Streams: if a consumer reads its pending entries again, no replica and no AOF records it.
#
#   findings/redis-reread-entries-not-replicated.sh
#
# Versions: Redis 7.0.15 of Debian 12.
# Expected: XREADGROUP with an ID in place of `>` returns a consumer's pending entries again,
#   increases their number of deliveries, and sets their idle time to zero. XPENDING returns both,
#   and programs use them: an entry with many deliveries is moved to a list of failed entries, and
#   an entry with a long idle time is claimed by another consumer. A command of the category "write"
#   is replicated.
# Seen: after three such reads the server has 4 deliveries. Its replica has 1, and an idle time
#   since the first delivery. So has the server itself after it was killed and read its AOF, with
#   `appendfsync always`. A delivery by XCLAIM is on the replica and in the AOF. After a failover or
#   a restart an entry that fails each time looks fresh, and XAUTOCLAIM takes entries of a consumer
#   that has just read them again.
# What to do: read again with XCLAIM or XAUTOCLAIM. Count attempts outside of Redis Streams.
#
# It needs redis-server of Debian 12, takes 15 seconds, and exits with 1 if it sees something else.
set -euo pipefail

readonly MADE_WITH=7.0.15
work=$(mktemp -d)
servers=()
trap '{ kill -KILL "${servers[@]}" || true; wait; } 2>/dev/null; rm -rf "$work"' EXIT

read -r port replica_port < <(python3 -c 'import socket
held = [socket.socket() for _ in range(2)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*[one.getsockname()[1] for one in held])')

start() { # name, port, options
    local name=$1 port=$2
    shift 2
    mkdir -p "$work/$name"
    redis-server --port "$port" --bind 127.0.0.1 --dir "$work/$name" --save '' --logfile log "$@" &
    servers+=($!)
    for _ in {1..100}; do
        [[ $(redis-cli -p "$port" PING 2>/dev/null) == PONG ]] && return
        sleep 0.1
    done
    cat "$work/$name/log" >&2
    exit 1
}

send() {
    redis-cli -p "$port" "$@" >/dev/null
}

# The number of deliveries of an entry, and whether it was idle for a second.
deliveries() { # port, entry
    local lines
    mapfile -t lines < <(redis-cli -p "$1" XPENDING queue workers "$2" "$2" 1)
    echo "${lines[3]} deliveries, $([[ ${lines[2]} -ge 1000 ]] && echo idle || echo fresh)"
}

failed=0
expect() { # what, seen, expected
    echo "$1: $2"
    if [[ $2 != "$3" ]]; then
        echo "  this has changed: it was $3" >&2
        failed=1
    fi
}

version=$(redis-server --version)
echo "$version"
[[ $version == *"v=$MADE_WITH "* ]] || echo "this was written with $MADE_WITH" >&2
start main "$port" --appendonly yes --appendfsync always
start replica "$replica_port" --replicaof "127.0.0.1 $port"
for _ in {1..100}; do
    redis-cli -p "$replica_port" INFO replication | grep -q 'master_link_status:up' && break
    sleep 0.1
done

send XGROUP CREATE queue workers 0 MKSTREAM
send XADD queue 1-0 no 1
send XADD queue 2-0 no 2
send XREADGROUP GROUP workers ann STREAMS queue '>'
sleep 1.5
for _ in 1 2 3; do
    send XREADGROUP GROUP workers ann COUNT 1 STREAMS queue 0
    send XCLAIM queue workers ann 0 2-0
done
# Waits until the replica has received everything that the server sent.
[[ $(redis-cli -p "$port" WAIT 1 5000) == 1 ]]

expect "read again 3 times, the server" "$(deliveries "$port" 1-0)" "4 deliveries, fresh"
expect "read again 3 times, the replica" "$(deliveries "$replica_port" 1-0)" "1 deliveries, idle"
expect "claimed 3 times, the server" "$(deliveries "$port" 2-0)" "4 deliveries, fresh"
expect "claimed 3 times, the replica" "$(deliveries "$replica_port" 2-0)" "4 deliveries, fresh"

{
    kill -KILL "${servers[0]}"
    wait "${servers[0]}" || true
} 2>/dev/null
start main "$port" --appendonly yes --appendfsync always
expect "read again, the server after a kill" "$(deliveries "$port" 1-0)" "1 deliveries, idle"
expect "claimed, the server after a kill" "$(deliveries "$port" 2-0 | cut -d, -f1)" "4 deliveries"
exit "$failed"
