#!/usr/bin/env bash
# fred: of the seeds of a cluster in a URL, only the first may be an IPv6 address, or lack its port.
#
#   findings/fred-cluster-seeds-ipv6.sh
#
# Versions: fred 10.1.0.
# Expected: the documentation of `Config::from_url` gives one form for all hosts, HOST:PORT, of which the
#   others follow as `node=HOST:PORT`. A URL writes an IPv6 address in brackets (RFC 3986, section 3.2.2),
#   and a missing port is 6379.
# Seen: the first host takes both. `node=[::1]:7001`, also percent-encoded, and `node=HOST` are
#   refused with `Invalid host:port for cluster node`. `Server::new` takes the address in brackets, and a
#   configuration that is built of it has the same form as that of the first host.
# What to do: parse the list of seeds in the program, and add each one with `Server::new`.
#
# It needs cargo, takes a minute or two to compile, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
fred = { version = "=10.1.0", default-features = false }
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use fred::types::config::{Config, Server, ServerConfig};

/// The servers of a URL, or the error.
fn seeds(url: &str) -> Result<Vec<Server>, String> {
    match Config::from_url(url).map_err(|error| error.details().to_owned())?.server {
        ServerConfig::Clustered { hosts, .. } => Ok(hosts),
        other => Err(format!("{other:?}")),
    }
}

fn main() {
    let mut changed = false;
    for (url, expected) in [
        ("redis-cluster://127.0.0.1:7000?node=127.0.0.1:7001", true),
        ("redis-cluster://[::1]:7000", true),
        ("redis-cluster://[::1]", true),
        ("redis-cluster://[::1]:7000?node=127.0.0.1:7001", true),
        ("redis-cluster://127.0.0.1:7000?node=[::1]:7001", false),
        ("redis-cluster://127.0.0.1:7000?node=%5B%3A%3A1%5D%3A7001", false),
        ("redis-cluster://127.0.0.1:7000?node=127.0.0.1", false),
    ] {
        let seen = seeds(url);
        println!("{url}\n  {seen:?}");
        if seen.is_ok() != expected {
            eprintln!("  this has changed: success was {expected}");
            changed = true;
        }
    }
    let first = seeds("redis-cluster://[::1]:7000").expect("it is read");
    let made = Server::new("[::1]", 7000);
    println!("Server::new: {made:?}, equal to the first host of a URL: {}", first[0] == made);
    changed |= first[0] != made;
    std::process::exit(changed.into());
}
RUST
cd "$work/program"
CARGO_TARGET_DIR="$work/target" cargo run --quiet
