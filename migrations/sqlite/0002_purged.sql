-- Rejects that an operator removed for good: the records stay accounted for, so that the audit of
-- their file still adds up, and what was in them is gone.

CREATE TABLE IF NOT EXISTS ingest_purged (
    file_no       INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    purged_at     TEXT    NOT NULL,
    PRIMARY KEY (file_no, ordinal)
) WITHOUT ROWID;
