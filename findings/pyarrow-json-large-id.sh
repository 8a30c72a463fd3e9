#!/usr/bin/env bash
# PyArrow: one ID of 2^63 or more makes the whole NDJSON column doubles, which changes the other
# IDs.
#
#   findings/pyarrow-json-large-id.sh
#
# Versions: pyarrow 26.0.1 of PyPI, Python 3.11. For comparison polars 2.1.0, duckdb 2.0.1, pandas 3.1.1.
# Expected: by its documentation read_json reads numbers as int64, and as float64 if one of them is
#   not an integer. Arrow has uint64, which holds 64-bit hashes and IDs. If a column would lose
#   digits, that is an error, as it is for a cast from int64 to double in PyArrow.
# Seen: 1234567890123456789 is read as 1234567890123456768, without an error, because the last of
#   1,000 records has the ID 9223372036854775808. Without that record, the number is exact. The
#   other three readers return all digits of both. So does PyArrow if `explicit_schema` has uint64.
# What to do: give the type of each column of IDs in ParseOptions.
#
# It needs python3 with venv, takes a minute, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1 pandas==3.1.1

cat >check.py <<'PY'
import sys

import duckdb
import pandas
import polars
import pyarrow
import pyarrow.json

ID, LARGE = 1234567890123456789, 2**63
wrong = False


def check(title, seen, expected):
    global wrong
    print(f"{title}: {seen}")
    if seen != expected:
        wrong = True
        print(f"  this has changed: it was {expected}", file=sys.stderr)


def arrow(path, **options):
    column = pyarrow.json.read_json(path, **options)["id"]
    first = column[0].as_py()
    return str(column.type), int(first)


small = f'{{"id":{ID}}}\n' * 999
with open("small.ndjson", "w") as file:
    file.write(small)
with open("large.ndjson", "w") as file:
    file.write(small + f'{{"id":{LARGE}}}\n')

print("pyarrow", pyarrow.__version__)
check("the first of 999 IDs", arrow("small.ndjson"), ("int64", ID))
check("the same before one of 2^63", arrow("large.ndjson"), ("double", 1234567890123456768))
schema = pyarrow.schema([("id", pyarrow.uint64())])
typed = pyarrow.json.ParseOptions(explicit_schema=schema)
check("with a schema", arrow("large.ndjson", parse_options=typed), ("uint64", ID))
try:
    pyarrow.array([ID]).cast(pyarrow.float64())
    seen = "taken"
except pyarrow.ArrowInvalid:
    seen = "refused"
check("a cast of that ID to double", seen, "refused")
# For comparison.
frame = polars.read_ndjson("large.ndjson", infer_schema_length=None)
check("polars", (frame["id"][0], frame["id"][-1]), (ID, LARGE))
rows = duckdb.sql("SELECT id FROM read_json('large.ndjson')").fetchall()
check("duckdb", (rows[0][0], rows[-1][0]), (ID, LARGE))
column = pandas.read_json("large.ndjson", lines=True)["id"].tolist()
check("pandas", (int(column[0]), int(column[-1])), (ID, LARGE))
sys.exit(wrong)
PY
venv/bin/python check.py
