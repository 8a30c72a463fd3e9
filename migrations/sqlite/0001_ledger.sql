-- The ledger: which files there are, and which of their records are stored.
--
-- The same columns as in MySQL. Times are text, `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, so that people
-- and SQLite's date functions can read them. AUTOINCREMENT, so that a number is never used again.

CREATE TABLE IF NOT EXISTS ingest_files (
    file_no       INTEGER PRIMARY KEY AUTOINCREMENT,
    hash          BLOB    NOT NULL UNIQUE,
    dataset       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    bytes         INTEGER NOT NULL,
    records       INTEGER NOT NULL,
    rejects       INTEGER NOT NULL DEFAULT 0,
    state         TEXT    NOT NULL,
    reason        TEXT    NULL,
    summarised    INTEGER NOT NULL DEFAULT 0,
    registered_at TEXT    NOT NULL,
    settled_at    TEXT    NULL
);

CREATE INDEX IF NOT EXISTS ingest_files_summary ON ingest_files (dataset, state, summarised);

-- An entry says: these ordinals are stored. The number of records is a part of the key, so that
-- entries of another cut of the same file stand beside each other.
CREATE TABLE IF NOT EXISTS ingest_frames (
    file_no       INTEGER NOT NULL,
    first_ordinal INTEGER NOT NULL,
    records       INTEGER NOT NULL,
    PRIMARY KEY (file_no, first_ordinal, records)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS ingest_rejects (
    file_no       INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    code          TEXT    NOT NULL,
    field         TEXT    NULL,
    byte_offset   INTEGER NOT NULL,
    raw           BLOB    NOT NULL,
    rejected_at   TEXT    NOT NULL,
    PRIMARY KEY (file_no, ordinal)
);
