-- What a file was loaded by and from, what the database said of a reject, what a replay stored.
--
-- SQLite cannot change a constraint of a table, so `ingest_files` is made anew: a number stands for
-- one content in one dataset. The sequence keeps its value, so that no number is used again.
-- `definition`: the fingerprint of the dataset's definition; NULL for files of earlier releases and
-- for files without a dataset. `path`: where a file of an archive is; NULL for a file of inbound.

ALTER TABLE ingest_files RENAME TO ingest_files_before;

CREATE TABLE IF NOT EXISTS ingest_files (
    file_no       INTEGER PRIMARY KEY AUTOINCREMENT,
    hash          BLOB    NOT NULL,
    dataset       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    bytes         INTEGER NOT NULL,
    records       INTEGER NOT NULL,
    rejects       INTEGER NOT NULL DEFAULT 0,
    state         TEXT    NOT NULL,
    reason        TEXT    NULL,
    summarised    INTEGER NOT NULL DEFAULT 0,
    registered_at TEXT    NOT NULL,
    settled_at    TEXT    NULL,
    definition    BLOB    NULL,
    path          BLOB    NULL,
    UNIQUE (hash, dataset)
);

INSERT INTO ingest_files SELECT *, NULL, NULL FROM ingest_files_before;

DELETE FROM sqlite_sequence WHERE name = 'ingest_files';

UPDATE sqlite_sequence SET name = 'ingest_files' WHERE name = 'ingest_files_before';

DROP TABLE ingest_files_before;

CREATE INDEX IF NOT EXISTS ingest_files_summary ON ingest_files (dataset, state, summarised);

ALTER TABLE ingest_rejects ADD COLUMN message TEXT NULL;

CREATE INDEX IF NOT EXISTS ingest_rejects_code ON ingest_rejects (code);

-- The texts of the definitions that processes were started with.
CREATE TABLE IF NOT EXISTS ingest_definitions (
    definition    BLOB    NOT NULL PRIMARY KEY,
    dataset       TEXT    NOT NULL,
    text          TEXT    NOT NULL,
    recorded_at   TEXT    NOT NULL
) WITHOUT ROWID;

-- The text that each replayed record was stored from.
CREATE TABLE IF NOT EXISTS ingest_replays (
    file_no       INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    text          BLOB    NOT NULL,
    replayed_at   TEXT    NOT NULL,
    PRIMARY KEY (file_no, ordinal)
);

-- What the engine keeps for itself, such as the key of the frames' checksums.
CREATE TABLE IF NOT EXISTS ingest_settings (
    name          TEXT    NOT NULL PRIMARY KEY,
    value         BLOB    NOT NULL
) WITHOUT ROWID;
