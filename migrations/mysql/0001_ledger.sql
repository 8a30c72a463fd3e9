-- The ledger: which files there are, and which of their records are stored.
--
-- MySQL commits DDL by itself, so a migration can be cut off in the middle: every statement here
-- may run twice. The text is `utf8mb4_bin`, since names and datasets are compared byte by byte.

CREATE TABLE IF NOT EXISTS ingest_files (
    file_no       INT UNSIGNED      NOT NULL AUTO_INCREMENT,
    hash          BINARY(16)        NOT NULL,
    dataset       VARCHAR(64)       NOT NULL,
    name          VARCHAR(255)      NOT NULL,
    bytes         BIGINT UNSIGNED   NOT NULL,
    records       INT UNSIGNED      NOT NULL,
    rejects       INT UNSIGNED      NOT NULL DEFAULT 0,
    state         VARCHAR(16)       NOT NULL,
    reason        TEXT              NULL,
    summarised    TINYINT           NOT NULL DEFAULT 0,
    registered_at DATETIME(6)       NOT NULL,
    settled_at    DATETIME(6)       NULL,
    PRIMARY KEY (file_no),
    UNIQUE KEY ingest_files_hash (hash),
    KEY ingest_files_summary (dataset, state, summarised)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- An entry says: these ordinals are stored. The number of records is a part of the key, so that
-- entries of another cut of the same file stand beside each other.
CREATE TABLE IF NOT EXISTS ingest_frames (
    file_no       INT UNSIGNED      NOT NULL,
    first_ordinal INT UNSIGNED      NOT NULL,
    records       INT UNSIGNED      NOT NULL,
    PRIMARY KEY (file_no, first_ordinal, records)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS ingest_rejects (
    file_no       INT UNSIGNED      NOT NULL,
    ordinal       INT UNSIGNED      NOT NULL,
    code          VARCHAR(32)       NOT NULL,
    field         VARCHAR(255)      NULL,
    byte_offset   BIGINT UNSIGNED   NOT NULL,
    raw           MEDIUMBLOB        NOT NULL,
    rejected_at   DATETIME(6)       NOT NULL,
    PRIMARY KEY (file_no, ordinal)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
