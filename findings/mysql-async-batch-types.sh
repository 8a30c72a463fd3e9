#!/usr/bin/env bash
# mysql_async: a batch that mixes integers and floats stores wrong numbers on MariaDB, without an
# error.
#
#   findings/mysql-async-batch-types.sh
#
# Versions: mysql_async 0.37.1 with mysql_common 0.37.3, MariaDB 10.11.19 of Debian 12.
# Expected: by its documentation exec_batch executes the statement for each item. A loop of exec_drop
#   over the same rows does that: 1, 2.5 and -1 are stored as 1, 2.5 and -1.
# Seen: on MariaDB exec_batch sends all rows in one COM_STMT_BULK_EXECUTE, which has one type for
#   each column. The first value that is not NULL decides the type, and the bytes of the others are
#   sent unchanged. In a DOUBLE column, 2.5 after 1 becomes 4.6e18, the bits of the float read as an
#   integer, and 3 after 0.5 becomes 1.5e-323. -1 becomes 18446744073709551615 if any row has an
#   unsigned value. There is neither an error nor a warning. Rows from JSON, where one column has 1
#   and 2.5, are affected. Servers without that command, such as MySQL, get the rows one by one and
#   store the right numbers.
# What to do: use the same variant of Value for all values of a column, or build INSERTs of many
#   rows.
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
use mysql_async::{prelude::Queryable, Conn, Error, Params, Value};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    use Value::{Double, Int, UInt, NULL};
    let url = std::env::args().nth(1).expect("the URL of the database");
    let mut conn = Conn::from_url(url).await?;
    let cases = [
        ("DOUBLE", vec![Int(1), Double(2.5)], ["1", "2.5"], ["1", "4.612811918334231e18"]),
        ("DOUBLE", vec![Double(0.5), Int(3)], ["0.5", "3"], ["0.5", "1.5e-323"]),
        ("DOUBLE", vec![NULL, Double(2.5)], ["NULL", "2.5"], ["NULL", "2.5"]),
        ("BIGINT", vec![Int(1), Double(2.0)], ["1", "2"], ["1", "4611686018427387904"]),
        ("DECIMAL(20)", vec![UInt(5), Int(-1)], ["5", "-1"], ["5", "18446744073709551615"]),
        ("VARCHAR(30)", vec![Int(1), Double(2.5)], ["1", "2.5"], ["1", "4612811918334230528"]),
    ];
    let mut changed = false;
    for (column, values, one_by_one, batch) in cases {
        let rows = || values.iter().map(|value| Params::Positional(vec![value.clone()]));
        let insert = "INSERT INTO t (v) VALUES (?)";

        create(&mut conn, column).await?;
        for row in rows() {
            conn.exec_drop(insert, row).await?;
        }
        let stored = [stored(&mut conn).await?, {
            create(&mut conn, column).await?;
            conn.exec_batch(insert, rows()).await?;
            assert_eq!(conn.get_warnings(), 0);
            stored(&mut conn).await?
        }];
        println!("{column}, {values:?}: one by one {:?}, as a batch {:?}", stored[0], stored[1]);
        if stored != [one_by_one.to_vec(), batch.to_vec()] {
            eprintln!("  this has changed: it was {one_by_one:?} and {batch:?}");
            changed = true;
        }
    }
    conn.disconnect().await?;
    std::process::exit(changed.into())
}

async fn create(conn: &mut Conn, column: &str) -> Result<(), Error> {
    conn.query_drop("DROP TABLE IF EXISTS t").await?;
    let create = format!("CREATE TABLE t (i INT AUTO_INCREMENT PRIMARY KEY, v {column})");
    conn.query_drop(create).await
}

async fn stored(conn: &mut Conn) -> Result<Vec<String>, Error> {
    let select = "SELECT IFNULL(CONCAT(v), 'NULL') FROM t ORDER BY i";
    conn.query(select).await
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
