-- Records that were erased on request. The ledger keeps their place, and nothing of what was in them.
--
-- `blanked_at`: when the bytes of the record in history were made blank; NULL before, and while they
-- are in a file that the engine does not change.

CREATE TABLE IF NOT EXISTS ingest_erased (
    file_no       INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    erased_at     TEXT    NOT NULL,
    blanked_at    TEXT    NULL,
    PRIMARY KEY (file_no, ordinal)
) WITHOUT ROWID;

-- The bytes that stand for a content of which records were erased. `content`: the hash of the bytes as
-- they were delivered. `hash`, `bytes`: hash and size of the file in history. While a file is being
-- replaced, there is an entry for both. The entries stay for ever, so that bytes that come again are
-- known.

CREATE TABLE IF NOT EXISTS ingest_erased_contents (
    content       BLOB    NOT NULL,
    hash          BLOB    NOT NULL,
    bytes         INTEGER NOT NULL,
    PRIMARY KEY (content, hash)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS ingest_erased_contents_hash ON ingest_erased_contents (hash);
