#!/usr/bin/env bash
# simd-json refuses 1e20 as JavaScript writes it, for a field of type f64 and for an ignored field.
#
#   findings/simd-json-large-double.sh
#
# Versions: simd-json 0.19.0, serde_json 1.0.154, Node.js 20 (it prints which).
# Expected: a double that one JSON library writes can be read as a double by another. A member that the
#   Rust struct does not name is skipped.
# Seen: JSON.stringify writes doubles below 1e21 in full: 1e20 is 100000000000000000000. simd-json
#   parses digits without a point or an exponent as an integer, before it knows the type of the
#   field, and has no integers of more than 64 bits. So the document is invalid ("InvalidNumber"),
#   even if the field is f64 or the struct has no such field. One such value in a document of many
#   records makes all of them unreadable. serde_json reads it. From 1e21 on, JavaScript writes an
#   exponent, and both read it.
# What to do: enable the feature `big-int-as-float`, with which such integers lose digits without an
#   error; or parse refused documents again with serde_json.
#
# It needs node and cargo, takes a minute or two, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Node.js $(node --version)"
node -e 'for (const v of [1e19, 1e20, -1e19, 1e21]) console.log(JSON.stringify({ id: 1, v }))' >"$work/records.ndjson"
cat "$work/records.ndjson"

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
serde = { version = "=1.0.229", features = ["derive"] }
serde_json = "=1.0.154"
simd-json = "=0.19.0"
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use serde::Deserialize;

#[derive(Deserialize)]
struct Double {
    v: f64,
}

#[derive(Deserialize)]
struct Other {
    id: u32,
}

fn main() {
    let path = std::env::args().nth(1).expect("the records");
    let text = std::fs::read_to_string(path).expect("UTF-8");
    // 1e19 is below 2^64, and so an unsigned integer.
    let expected = [(1e19, true), (1e20, false), (-1e19, false), (1e21, true)];
    assert_eq!(text.lines().count(), expected.len());
    let mut changed = false;
    for (line, (value, simd)) in text.lines().zip(expected) {
        let serde = serde_json::from_str::<Double>(line).is_ok_and(|record| record.v == value);
        let mut bytes = line.as_bytes().to_vec();
        let named = simd_json::serde::from_slice::<Double>(&mut bytes);
        let mut bytes = line.as_bytes().to_vec();
        let ignored = simd_json::serde::from_slice::<Other>(&mut bytes);
        println!(
            "{line}: serde_json reads it: {serde}; simd-json: {:?}, if ignored {:?}",
            named.as_ref().map(|record| record.v).map_err(ToString::to_string),
            ignored.as_ref().map(|record| record.id).map_err(ToString::to_string),
        );
        let named = named.is_ok_and(|record| record.v == value);
        if (serde, named, ignored.is_ok()) != (true, simd, simd) {
            eprintln!("  this has changed: simd-json read it: {simd}");
            changed = true;
        }
    }
    std::process::exit(changed.into());
}
RUST
cargo run --quiet --manifest-path "$work/program/Cargo.toml" --target-dir "$work/target" -- "$work/records.ndjson"
