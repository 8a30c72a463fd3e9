#!/usr/bin/env bash
# DuckDB: values after the first 20,480 JSON records are converted to the type of those, without an
# error.
#
#   findings/duckdb-json-sample.sh
#
# Versions: duckdb 2.0.1 of PyPI, Python 3.11.
# Expected: read_json takes the types of columns from a sample. By its documentation `sample_size`
#   is 20,480 records, and `ignore_errors` is off. So a later value of another type is an error, as
#   a later text in a column of numbers is.
# Seen, with valid newline-delimited JSON and no option set, when the sample had
#   - integers: a later 2.5 is 2, 3.5 is 4, true is 1
#   - booleans: a later 7 is true
#   - null alone: a later 7, "text" or [1] is NULL. The column has the type "NULL".
# COPY into a BIGINT column of a table does the same: 2.5 becomes 2 and true becomes 1.
# What to do: give `columns`, with DOUBLE or JSON for columns whose type varies, or `sample_size =
#   -1`.
#
# It needs python3 with venv, takes 30 seconds, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check duckdb==2.0.1

cat >check.py <<'PY'
import sys

import duckdb

SAMPLE = 20_480
wrong = False


def check(title, seen, expected):
    global wrong
    print(f"{title}: {seen}")
    if seen != expected:
        wrong = True
        print(f"  this has changed: it was {expected}", file=sys.stderr)


def values(first, later, times=SAMPLE):
    with open("records.ndjson", "w") as file:
        file.write(f'{{"id":1,"a":{first}}}\n' * times)
        file.writelines(f'{{"id":1,"a":{value}}}\n' for value in later)
    try:
        rows = duckdb.sql("SELECT typeof(a), a FROM read_json('records.ndjson')").fetchall()
    except duckdb.Error:
        return "an error"
    return rows[times][0], [value for _, value in rows[times:]]


print("duckdb", duckdb.__version__)
check("integers, then 2.5, 3.5 and true", values("1", ["2.5", "3.5", "true"]), ("BIGINT", [2, 4, 1]))
check("booleans, then 7", values("false", ["7"]), ("BOOLEAN", [True]))
check("null, then 7, a text and an array", values("null", ["7", '"text"', "[1]"]), ('"NULL"', [None] * 3))
# For comparison: an error, and the same file within the sample.
check("integers, then a text", values("1", ['"text"']), "an error")
check("one less integer, then 2.5", values("1", ["2.5"], SAMPLE - 1), ("DOUBLE", [2.5]))

with open("records.ndjson", "w") as file:
    file.write('{"a":2.5}\n{"a":3.5}\n{"a":true}\n')
duckdb.sql("CREATE TABLE t (a BIGINT)")
duckdb.sql("COPY t FROM 'records.ndjson' (FORMAT json)")
check("COPY of 2.5, 3.5 and true into BIGINT", duckdb.sql("FROM t").fetchall(), [(2,), (4,), (1,)])
sys.exit(wrong)
PY
venv/bin/python check.py
