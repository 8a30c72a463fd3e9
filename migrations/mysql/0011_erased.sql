-- Records that were erased on request. The ledger keeps their place, and nothing of what was in them.
--
-- `blanked_at`: when the bytes of the record in history were made blank; NULL before, and while they
-- are in a file that the engine does not change.
CREATE TABLE IF NOT EXISTS ingest_erased (
    file_no       INT UNSIGNED      NOT NULL,
    ordinal       INT UNSIGNED      NOT NULL,
    erased_at     DATETIME(6)       NOT NULL,
    blanked_at    DATETIME(6)       NULL,
    PRIMARY KEY (file_no, ordinal)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The bytes that stand for a content of which records were erased. `content`: the hash of the bytes as
-- they were delivered. `hash`, `bytes`: hash and size of the file in history. While a file is being
-- replaced, there is an entry for both. The entries stay for ever, so that bytes that come again are
-- known.
CREATE TABLE IF NOT EXISTS ingest_erased_contents (
    content       BINARY(16)        NOT NULL,
    hash          BINARY(16)        NOT NULL,
    bytes         BIGINT UNSIGNED   NOT NULL,
    PRIMARY KEY (content, hash),
    KEY ingest_erased_contents_hash (hash)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
