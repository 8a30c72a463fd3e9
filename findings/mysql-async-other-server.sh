#!/usr/bin/env bash
# mysql_async: a URL with a host and a port ends in another server, one behind a local socket.
#
#   findings/mysql-async-other-server.sh
#
# Versions: mysql_async 0.37.1, MariaDB 10.11.19 of Debian 12.
# Expected: `mysql://host:port/` is the server that listens there. By the documentation of
#   `prefer_socket`, on by default, the client changes to a Unix socket after a TCP connection to
#   127.0.0.1, of the address that the server gives as @@socket, which "may be incorrect in some
#   cases"; it falls back to TCP on an error.
# Seen: the address of a server elsewhere (a container, an SSH tunnel, a proxy) is often that of the
#   server on this machine, since both have the default of their distribution. There is no error to
#   fall back on: if the account is good for both, each statement goes to the local server. The
#   host is not looked at. [::ffff:127.0.0.1], which is not 127.0.0.1 and which Rust does not count as
#   loopback, ends there, too.
# What to do: `prefer_socket=false` in each URL with a port. A proxy for tests is passed by likewise.
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
# The far server's socket is in its own container: the same path here is that of the local server.
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
