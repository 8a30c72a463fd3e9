-- Records that have no row because the row of another record has the same key. `winner` is the id of
-- that row. An entry counts only while the table has this row.

CREATE TABLE IF NOT EXISTS ingest_superseded (
    file_no       INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    winner        INTEGER NOT NULL,
    superseded_at TEXT    NOT NULL,
    PRIMARY KEY (file_no, ordinal)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS ingest_superseded_winner ON ingest_superseded (winner);
