#!/usr/bin/env bash
# fred: an XADD whose reply is lost is sent again: the call succeeds once, and the stream has two
# entries.
#
#   findings/fred-xadd-twice.sh
#
# Versions: fred 10.1.0, Redis 7.0.15 of Debian 12.
# Expected: a command that may have taken effect, and is not idempotent, fails if the connection ends
#   before its reply. The caller then knows that the outcome is unknown. By default, fred does not even
#   reconnect: there is no policy for it.
# Seen: with a policy that reconnects, the connection ends after XADD and before its reply. The call
#   returns `Ok` with one ID, and the stream has two entries. `max_command_attempts` is 3 by default
#   and applies to each command, read or write. With 1, the call fails, and the stream has one
#   entry.
# What to do: set `ConnectionConfig::max_command_attempts = 1`, and handle the error in the program.
#
# It needs redis-server of Debian 12 and cargo, takes some minutes to compile, and exits with 1 if it sees
# something else.
set -euo pipefail

readonly MADE_WITH=7.0.15
work=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null || true; wait; rm -rf "$work"' EXIT

port=$(python3 -c 'import socket
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    print(one.getsockname()[1])')
version=$(redis-server --version)
echo "$version"
[[ $version == *"v=$MADE_WITH "* ]] || echo "this was written with $MADE_WITH" >&2
redis-server --port "$port" --bind 127.0.0.1 --dir "$work" --save '' --logfile log &
server=$!

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
fred = { version = "=10.1.0", default-features = false, features = ["i-streams"] }
tokio = { version = "=1.54.1", features = ["io-util", "macros", "net", "rt", "time"] }
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use std::{io, time::Duration};

use fred::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).expect("the port of the server");
    let port = port.parse().expect("a port");
    let mut changed = false;
    for (stream, attempts, expected) in [("default", None, (true, 2)), ("once", Some(1), (false, 1))] {
        let seen = publish(port, stream, attempts).await;
        println!("max_command_attempts {attempts:?}: success {}, entries {}", seen.0, seen.1);
        if seen != expected {
            eprintln!("  this has changed: it was {expected:?}");
            changed = true;
        }
    }
    std::process::exit(changed.into());
}

/// Sends an XADD whose first reply is lost. Returns whether it succeeds, and the number of entries.
async fn publish(port: u16, stream: &str, attempts: Option<u32>) -> (bool, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy_port = listener.local_addr().expect("it listens").port();
    let proxy = tokio::spawn(lose_the_first_reply(listener, port));

    let config = Config {
        server: ServerConfig::new_centralized("127.0.0.1", proxy_port),
        ..Config::default()
    };
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, 100))
        .with_connection_config(|connection| {
            if let Some(attempts) = attempts {
                connection.max_command_attempts = attempts;
            }
        })
        .build()
        .expect("a client");
    client.init().await.expect("the server is there");
    let added: Result<String, Error> = client.xadd(stream, false, None::<()>, "*", ("no", 1)).await;
    println!("XADD: {added:?}");
    let entries = loop {
        // The connection may be about to be replaced.
        match client.xlen(stream).await {
            Ok(entries) => break entries,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    proxy.abort();
    (added.is_ok(), entries)
}

/// Forwards all bytes, but ends the connection instead of forwarding the first reply to an XADD.
async fn lose_the_first_reply(listener: TcpListener, port: u16) -> io::Result<()> {
    let (mut added, mut lost) = (false, false);
    loop {
        let (mut client, _) = listener.accept().await?;
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut request, mut reply) = (vec![0; 4096], vec![0; 4096]);
        loop {
            tokio::select! {
                read = client.read(&mut request) => {
                    let bytes = &request[..read.unwrap_or(0)];
                    if bytes.is_empty() {
                        break;
                    }
                    added |= bytes.windows(4).any(|word| word == b"XADD");
                    server.write_all(bytes).await?;
                }
                read = server.read(&mut reply) => {
                    let bytes = &reply[..read.unwrap_or(0)];
                    if bytes.is_empty() || added && !lost {
                        lost |= added;
                        break;
                    }
                    client.write_all(bytes).await?;
                }
            }
        }
    }
}
RUST
cargo run --quiet --manifest-path "$work/program/Cargo.toml" --target-dir "$work/target" -- "$port"
