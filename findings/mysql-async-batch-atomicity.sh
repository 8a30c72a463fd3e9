#!/usr/bin/env bash
# mysql_async on MariaDB: whether a failed batch leaves changes depends on the kind of statement.
#
#   findings/mysql-async-batch-atomicity.sh
#
# Versions: mysql_async 0.37.1 with mysql_common 0.37.3, MariaDB 10.11.19 of Debian 12.
# Expected: one rule for a batch with a bad row outside a transaction. By its documentation
#   exec_batch executes the statement for each item; then the rows before the bad one stay, as in a
#   loop of exec_drop. Or all rows are undone, since MariaDB gets the batch as one
#   COM_STMT_BULK_EXECUTE with one reply.
# Seen: both. INSERT, REPLACE and INSERT ... ON DUPLICATE KEY UPDATE are undone as a whole. For
#   UPDATE and DELETE, the changes of the rows before the bad one stay. So do rows of an INSERT of
#   more bytes than `max_allowed_packet`, 16 MiB by default: it is sent as several commands, and
#   only the failed command is undone.
# What to do: wrap each batch in a transaction, and roll it back on an error.
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
    --innodb-buffer-pool-size=32M >/dev/null 2>&1 &
server=$!

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
mysql_async = { version = "=0.37.1", default-features = false, features = ["minimal-rust"] }
mysql_common = { version = "=0.37.3", default-features = false }
tokio = { version = "=1.54.1", features = ["macros", "rt"] }
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use mysql_async::{prelude::Queryable, Conn, Error};

const CASES: [(&str, &str, [[i32; 2]; 3], &str, &str); 5] = [
    ("INSERT", "INSERT INTO t (id, v) VALUES (?, ?)", [[4, 1], [5, -1], [6, 1]], "1,1 2,1 3,1 4,1", "1,1 2,1 3,1"),
    ("REPLACE", "REPLACE INTO t (id, v) VALUES (?, ?)", [[1, 8], [5, -1], [6, 1]], "1,8 2,1 3,1", "1,1 2,1 3,1"),
    (
        "ON DUPLICATE KEY UPDATE",
        "INSERT INTO t (id, v) VALUES (?, ?) ON DUPLICATE KEY UPDATE v = VALUES(v)",
        [[1, 8], [2, -1], [3, 8]],
        "1,8 2,1 3,1",
        "1,1 2,1 3,1",
    ),
    ("UPDATE", "UPDATE t SET v = ? WHERE id = ?", [[8, 1], [-1, 2], [8, 3]], "1,8 2,1 3,1", "1,8 2,1 3,1"),
    ("DELETE", "DELETE FROM t WHERE id = ? OR id = ?", [[1, 1], [2, 2], [3, 3]], "2,1 3,1", "2,1 3,1"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).expect("the URL of the database");
    let mut conn = Conn::from_url(&url).await?;
    let mut changed = false;
    let mut check = |what: &str, seen: &str, expected: &str| {
        println!("{what}: {seen}");
        if seen != expected {
            eprintln!("  this has changed: it was {expected}");
            changed = true;
        }
    };
    for (verb, statement, rows, one_by_one, batch) in CASES {
        create(&mut conn).await?;
        for row in rows {
            if conn.exec_drop(statement, row.to_vec()).await.is_err() {
                break;
            }
        }
        check(&format!("{verb}, one by one"), &stored(&mut conn).await?, one_by_one);
        create(&mut conn).await?;
        let rows = rows.iter().map(|row| row.to_vec());
        conn.exec_batch(statement, rows).await.expect_err("the second row is bad");
        check(&format!("{verb}, as a batch"), &stored(&mut conn).await?, batch);
    }

    // A packet of this connection holds two of these rows.
    let mut conn = Conn::from_url(format!("{url}&max_allowed_packet=16384")).await?;
    create(&mut conn).await?;
    let pad = "x".repeat(6000);
    let rows = [4, 5, 6, 7].map(|id| (id, if id == 7 { -1 } else { 1 }, pad.as_str()));
    let insert = "INSERT INTO t (id, v, pad) VALUES (?, ?, ?)";
    conn.exec_batch(insert, rows).await.expect_err("the last row is bad");
    check("INSERT in two packets, as a batch", &stored(&mut conn).await?, "1,1 2,1 3,1 4,1 5,1");
    conn.disconnect().await?;
    std::process::exit(changed.into())
}

/// Three rows. The table refuses a `v` below zero, and row 2 cannot be deleted.
async fn create(conn: &mut Conn) -> Result<(), Error> {
    for statement in [
        "DROP TABLE IF EXISTS child, t",
        "CREATE TABLE t (id INT PRIMARY KEY, v INT CHECK (v >= 0), pad TEXT) ENGINE=InnoDB",
        "CREATE TABLE child (id INT, FOREIGN KEY (id) REFERENCES t (id)) ENGINE=InnoDB",
        "INSERT INTO t (id, v) VALUES (1, 1), (2, 1), (3, 1)",
        "INSERT INTO child VALUES (2)",
    ] {
        conn.query_drop(statement).await?;
    }
    Ok(())
}

async fn stored(conn: &mut Conn) -> Result<String, Error> {
    let select = "SELECT GROUP_CONCAT(id, ',', v ORDER BY id SEPARATOR ' ') FROM t";
    Ok(conn.query_first(select).await?.unwrap_or_default())
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
