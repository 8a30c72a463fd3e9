#!/usr/bin/env bash
# gzip files that end in zeros: gzip and pandas read them, Polars, DuckDB and Arrow refuse them.
#
#   findings/gzip-zero-padding.sh
#
# Versions: gzip 1.12 of Debian 12. pandas 3.1.1, polars 2.1.0, duckdb 2.0.1 and pyarrow 26.0.1 of PyPI,
#   Python 3.11.
# Expected: by its manual, gzip reads a file that ends in zeros, as devices with fixed blocks write
#   it, without a warning. Other programs that read several members in a file do the same.
# Seen: from a file of 1,000 records and 512 zeros, gzip, Python's gzip and pandas read all records.
#   The other three read none: "invalid gzip header", "Input is not a GZIP stream", "unknown
#   compression method". All of them read the same file with a second member in place of the zeros.
#   RFC 1952 has no padding, so both behaviours are valid.
# What to do: a producer truncates the file to the length that it wrote; a consumer pipes the file
#   through gzip -d.
#
# It needs python3 with venv, takes a minute, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pandas==3.1.1 polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1

seq 1000 | sed 's/.*/{"id":&}/' >records.ndjson
gzip -c records.ndjson >one.ndjson.gz
cat one.ndjson.gz one.ndjson.gz >two-members.ndjson.gz
{
    cat one.ndjson.gz
    head -c 512 /dev/zero
} >padded.ndjson.gz
gzip --version | head -n 1
gzip -dc padded.ndjson.gz | cmp - records.ndjson
echo "gzip gives all of padded.ndjson.gz, exit code 0"

cat >check.py <<'PY'
import gzip
import sys

import duckdb
import pandas
import polars
import pyarrow.json

READERS = {
    "Python's gzip": lambda path: len(gzip.open(path).readlines()),
    "pandas": lambda path: len(pandas.read_json(path, lines=True)),
    "polars": lambda path: polars.read_ndjson(path).height,
    "duckdb": lambda path: duckdb.sql(f"SELECT count(*) FROM read_json('{path}')").fetchall()[0][0],
    "pyarrow": lambda path: pyarrow.json.read_json(path).num_rows,
}
EXPECTED = {
    "two-members.ndjson.gz": dict.fromkeys(READERS, 2000),
    "padded.ndjson.gz": {
        "Python's gzip": 1000,
        "pandas": 1000,
        "polars": "invalid gzip header",
        "duckdb": "Input is not a GZIP stream",
        "pyarrow": "unknown compression method",
    },
}
wrong = False
for path, expected in EXPECTED.items():
    for name, read in READERS.items():
        try:
            seen = read(path)
        except Exception as error:
            seen = str(error)
        print(f"{path}, {name}: {seen}")
        if expected[name] != seen and str(expected[name]) not in str(seen):
            wrong = True
            print(f"  this has changed: it was {expected[name]}", file=sys.stderr)
sys.exit(wrong)
PY
venv/bin/python check.py
