#!/usr/bin/env bash
# If the source of LOAD DATA LOCAL fails in the middle, the rows before are committed, and half a
# value.
#
#   findings/load-data-local-cannot-be-aborted.sh
#
# Versions: mysql_async 0.37.1, MariaDB 10.11.19 of Debian 12. MySQL 9.7.4 did the same by hand.
# Expected: the source of the data returns two and a half lines, and then an error. mysql_async
#   returns that error, and a comment in its code says that it aborts the stream. A failed statement
#   is undone.
# Seen: the protocol has no abort. The client ends its data with an empty packet in either case. So
#   the server treats the data as complete, and commits it outside of a transaction, even in strict
#   mode: lines 1 and 2, and half of line 3, "thr" for "three".
# What to do: use LOAD DATA LOCAL only in a transaction. COMMIT only if the client had no error and
#   the number of rows is right.
#
# It needs mariadb-server of Debian 12 and cargo, takes some minutes to compile, and exits with 1 if it sees
# something else.
set -euo pipefail

readonly MADE_WITH=10.11.19-MariaDB
work=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null || true; wait; rm -rf "$work"' EXIT

mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/data" \
    --auth-root-authentication-method=normal >/dev/null 2>&1
mariadbd --no-defaults --user="$(id -un)" --datadir="$work/data" --socket="$work/sock" \
    --pid-file="$work/pid" --log-error="$work/log" --skip-networking \
    --innodb-buffer-pool-size=32M --local-infile=1 >/dev/null 2>&1 &
server=$!

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
mysql_async = { version = "=0.37.1", default-features = false, features = ["minimal-rust"] }
mysql_common = { version = "=0.37.3", default-features = false }
bytes = "=1.12.2"
futures-util = { version = "=0.3.34", default-features = false }
tokio = { version = "=1.54.1", features = ["macros", "rt"] }
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use std::io;

use bytes::Bytes;
use futures_util::{stream, StreamExt};
use mysql_async::{prelude::Queryable, Conn, Error};

const LOAD: &str = "LOAD DATA LOCAL INFILE 'x' INTO TABLE t";

fn parts() -> stream::BoxStream<'static, io::Result<Bytes>> {
    let first = Ok(Bytes::from("1\tone\n2\ttwo\n3\tthr"));
    stream::iter([first, Err(io::Error::other("the source failed"))]).boxed()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).expect("the URL of the database");
    let mut conn = Conn::from_url(&url).await?;
    let create = "CREATE TABLE t (id INT PRIMARY KEY, word VARCHAR(9) NOT NULL) ENGINE=InnoDB";
    conn.query_drop(create).await?;
    conn.query_drop("SET SESSION sql_mode = 'STRICT_ALL_TABLES'").await?;

    conn.set_infile_handler(async { Ok(parts()) });
    let error = conn.query_drop(LOAD).await.expect_err("the source failed");
    println!("LOAD DATA LOCAL: {error}");
    let alone = stored(&url).await?;
    println!("stored: {alone}");

    let mut conn = Conn::from_url(&url).await?;
    conn.query_drop("DELETE FROM t").await?;
    conn.query_drop("START TRANSACTION").await?;
    conn.set_infile_handler(async { Ok(parts()) });
    let _ = conn.query_drop(LOAD).await.expect_err("the source failed");
    drop(conn);
    let in_transaction = stored(&url).await?;
    println!("stored, in a transaction: {in_transaction}");
    if (alone.as_str(), in_transaction.as_str()) != ("1 one, 2 two, 3 thr", "nothing") {
        eprintln!("this has changed: it was 1 one, 2 two, 3 thr, and nothing in a transaction");
        std::process::exit(1);
    }
    Ok(())
}

/// What another connection sees.
async fn stored(url: &str) -> Result<String, Error> {
    let mut conn = Conn::from_url(url).await?;
    let select = "SELECT GROUP_CONCAT(id, ' ', word ORDER BY id SEPARATOR ', ') FROM t";
    let all: Option<Option<String>> = conn.query_first(select).await?;
    conn.disconnect().await?;
    Ok(all.flatten().unwrap_or_else(|| "nothing".to_owned()))
}
RUST

for _ in {1..150}; do
    mariadb --no-defaults --socket="$work/sock" --user=root --execute='CREATE DATABASE f' 2>/dev/null && break
    sleep 0.2
done
version=$(mariadbd --no-defaults --version)
echo "$version"
[[ $version == *"$MADE_WITH"* ]] || echo "this was written with $MADE_WITH" >&2
cargo run --quiet --manifest-path "$work/program/Cargo.toml" --target-dir "$work/target" -- \
    "mysql://root@localhost/f?socket=${work//\//%2F}%2Fsock"
