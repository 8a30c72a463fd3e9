-- How many records of a file had rows that are no longer kept. SQLite has no partitions, so the table
-- is empty; queries for both kinds of databases read it.

CREATE TABLE IF NOT EXISTS ingest_retired (
    file_no       INTEGER NOT NULL PRIMARY KEY,
    records       INTEGER NOT NULL,
    retired_at    TEXT    NOT NULL
);
