#!/usr/bin/env bash
# Polars: a member that first occurs after 100 NDJSON records is dropped, without an error.
#
#   findings/polars-ndjson-late-key.sh
#
# Versions: polars 2.1.0 of PyPI, Python 3.11. For comparison duckdb 2.0.1 and pyarrow 26.0.1.
# Expected: by its documentation the schema is inferred from the first `infer_schema_length` records
#   (100), and `ignore_errors`, which replaces values that do not fit by null, is off. So a member
#   that does not fit is an error, as a later 2.5 in a column of integers is.
# Seen: a member that is missing in the first 100 records is not in the result, without an error or
#   warning: for read_ndjson and scan_ndjson, at the top of the record and in an object in it. In a
#   column of texts, a number becomes a text, and an object becomes its JSON. For the same file,
#   DuckDB reports the record with the unknown member, and PyArrow adds the column.
# What to do: set `infer_schema_length=None`; or give the schema, and compare the members in the
#   program.
#
# It needs python3 with venv, takes 40 seconds, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1

cat >check.py <<'PY'
import sys

import duckdb
import polars
import pyarrow.json

wrong = False


def check(title, seen, expected):
    global wrong
    print(f"{title}: {seen}")
    if seen != expected:
        wrong = True
        print(f"  this has changed: it was {expected}", file=sys.stderr)


def write(first, later, times=100):
    with open("records.ndjson", "w") as file:
        file.write(first + "\n" + (first + "\n") * (times - 1) + later + "\n")


def last_read():
    try:
        return polars.read_ndjson("records.ndjson").to_dicts()[-1]
    except polars.exceptions.PolarsError as error:
        return type(error).__name__


def last_scanned():
    return polars.scan_ndjson("records.ndjson").collect().to_dicts()[-1]


print("polars", polars.__version__)
write('{"id":1}', '{"id":2,"error":"brake"}')
check("read_ndjson", last_read(), {"id": 2})
check("scan_ndjson", last_scanned(), {"id": 2})
all_of_it = polars.read_ndjson("records.ndjson", infer_schema_length=None).to_dicts()[-1]
check("infer_schema_length=None", all_of_it, {"id": 2, "error": "brake"})

write('{"at":{"lat":1.5}}', '{"at":{"lat":2.5,"lon":3.5}}')
check("in an object", last_read(), {"at": {"lat": 2.5}})
write('{"id":"a"}', '{"id":{"no":7}}')
check("an object in a column of texts", last_read(), {"id": '{"no": 7}'})
# For comparison: an error of polars, and the results of the other libraries.
write('{"id":1}', '{"id":2.5}')
check("2.5 in a column of integers", last_read(), "ComputeError")

write('{"id":1}', '{"id":2,"error":"brake"}', times=30_000)
check("the same, 30,000 records", last_read(), {"id": 2})
try:
    duckdb.sql("FROM read_json('records.ndjson')").fetchall()
    seen = "no error"
except duckdb.Error as error:
    seen = 'unknown key "error"' in str(error) and "line 30001" in str(error)
check("DuckDB names the key and the line", seen, True)
arrow = pyarrow.json.read_json("records.ndjson").to_pylist()[-1]
check("PyArrow", arrow, {"id": 2, "error": "brake"})
sys.exit(wrong)
PY
venv/bin/python check.py
