# `just --list` shows these. Each recipe is one script or cargo command, which works without just.

# Lists the recipes.
default:
    @just --list

# Unit tests, source rules and simulation: neither root nor servers.
quick:
    cargo test --lib --locked
    cargo test --test suite --locked -- tidy simulation

# All tests, or those whose name contains ARGS; starts servers of its own.
test *ARGS:
    scripts/test {{ARGS}}

# Everything that must hold before a change is taken.
ci:
    .ci/run

# Format and lints.
lint:
    cargo fmt
    cargo clippy --workspace --all-targets --locked -- -D warnings

# A complete first run with made data.
demo:
    cargo run --release -- demo

# Starts a private Redis and MariaDB, and prints the settings to use.
up *ARGS:
    scripts/up {{ARGS}}

# Stops what `just up` started; `--delete` removes the data.
down *ARGS:
    scripts/down {{ARGS}}

# Measures the engine beside the limits of its parts; `--help` says how.
bench *ARGS:
    scripts/bench {{ARGS}}

# Random faults on real servers, then an audit of every record.
chaos *ARGS:
    scripts/chaos {{ARGS}}

# Hosts that are killed, paused and cut off, then an audit of every record.
hosts *ARGS:
    scripts/hosts {{ARGS}}

# The checks that take too long for each change: ten thousand simulated worlds, twenty minutes of
# chaos, faults of hosts, fuzzing.
nightly *ARGS:
    scripts/nightly {{ARGS}}

# Fuzzes every reader of foreign bytes, a minute for each target.
fuzz *ARGS:
    scripts/fuzz {{ARGS}}

# Licences, sources and advisories of the dependencies.
deny *ARGS:
    scripts/deny {{ARGS}}

# Draws docs/dashboard.svg from a real run.
picture:
    scripts/dashboard-picture
