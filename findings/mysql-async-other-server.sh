#!/usr/bin/env bash
# mysql_async: a URL with a host and a port can connect to another server, through a local socket.
#
#   findings/mysql-async-other-server.sh
#
# Versions: mysql_async 0.37.1, MariaDB 10.11.19 of Debian 12.
# Expected: `mysql://host:port/` connects to the server that listens there. The documentation of
#   `prefer_socket`, on by default, says: after a TCP connection to 127.0.0.1 the client changes to
#   the Unix socket that the server names as @@socket, which "may be incorrect in some cases". On an
#   error it falls back to TCP.
# Seen: the socket path of a server behind the port (in a container, an SSH tunnel, a proxy) is
#   often the path of the server on this machine, because both have the default of their
#   distribution. Then no error occurs, and there is no fallback: if the account exists on both,
#   each statement goes to the local server. The client does not compare the host.
#   [::ffff:127.0.0.1], which is not 127.0.0.1 and which Rust does not count as loopback, connects
#   to the local server as well.
# What to do: put `prefer_socket=false` into each URL with a port. Otherwise a proxy for tests is
#   bypassed in the same way.
#
# It needs mariadb-server of Debian 12 and cargo, takes some minutes to compile, and exits with 1 if it sees
# something else.
set -euo pipefail

readonly MADE_WITH=10.11.19-MariaDB
work=$(mktemp -d)
servers=()
trap '{ kill "${servers[@]}" || true; wait; } 2>/dev/null; rm -rf "$work"' EXIT

port=$(python3 -c 'import socket
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    print(one.getsockname()[1])')

start() { # name, options
    local name=$1
    shift
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/$name" \
        --auth-root-authentication-method=normal >/dev/null 2>&1
    mariadbd --no-defaults --user="$(id -un)" --datadir="$work/$name" --socket="$work/mysqld.sock" \
        --pid-file="$work/$name.pid" --log-error="$work/$name.log" \
        --innodb-buffer-pool-size=32M "$@" >/dev/null 2>&1 &
    servers+=($!)
    for _ in {1..150}; do
        mariadb --no-defaults --socket="$work/mysqld.sock" --user=root \
            --execute="CREATE DATABASE f; CREATE TABLE f.t AS SELECT '$name' AS name" 2>/dev/null && return
        sleep 0.2
    done
    cat "$work/$name.log" >&2
    exit 1
}

version=$(mariadbd --no-defaults --version)
echo "$version"
[[ $version == *"$MADE_WITH"* ]] || echo "this was written with $MADE_WITH" >&2
start far --port="$port" --bind-address=127.0.0.1
# The socket of the other server is in its container. On this machine, the same path is the local
# server's.
rm "$work/mysqld.sock"
start local --skip-networking

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
mysql_async = { version = "=0.37.1", default-features = false, features = ["minimal-rust"] }
tokio = { version = "=1.54.1", features = ["macros", "rt"] }
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use mysql_async::{prelude::Queryable, Conn, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let port = std::env::args().nth(1).expect("the port of the far server");
    let mut changed = false;
    for (host, options, expected) in [
        ("127.0.0.1", "", "local"),
        ("[::ffff:127.0.0.1]", "", "local"),
        ("127.0.0.1", "?prefer_socket=false", "far"),
    ] {
        let url = format!("mysql://root@{host}:{port}/f{options}");
        let mut conn = Conn::from_url(&url).await?;
        let seen: Option<String> = conn.query_first("SELECT name FROM t").await?;
        conn.disconnect().await?;
        let seen = seen.expect("a table of one row");
        println!("mysql://root@{host}:PORT/f{options} is the {seen} server");
        if seen != expected {
            eprintln!("  this has changed: it was the {expected} server");
            changed = true;
        }
    }
    std::process::exit(changed.into())
}
RUST
cargo run --quiet --manifest-path "$work/program/Cargo.toml" --target-dir "$work/target" -- "$port"
