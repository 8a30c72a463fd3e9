-- What a file was loaded by and from, what the database said of a reject, what a replay stored.
--
-- A column or a key that exists already, or is gone already, counts as done: this file, too, may run
-- twice.

-- `definition`: the fingerprint of the dataset's definition; NULL for files of earlier releases and
-- for files without a dataset. `path`: where a file of an archive is; NULL for a file of inbound.
ALTER TABLE ingest_files
    ADD COLUMN definition BINARY(16) NULL,
    ADD COLUMN path VARBINARY(4096) NULL,
    ADD UNIQUE KEY ingest_files_content (hash, dataset);

-- A number stands for one content in one dataset.
ALTER TABLE ingest_files DROP KEY ingest_files_hash;

ALTER TABLE ingest_rejects
    ADD COLUMN message TEXT NULL,
    ADD KEY ingest_rejects_code (code);

-- The texts of the definitions that processes were started with.
CREATE TABLE IF NOT EXISTS ingest_definitions (
    definition    BINARY(16)        NOT NULL,
    dataset       VARCHAR(64)       NOT NULL,
    text          MEDIUMTEXT        NOT NULL,
    recorded_at   DATETIME(6)       NOT NULL,
    PRIMARY KEY (definition)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The text that each replayed record was stored from.
CREATE TABLE IF NOT EXISTS ingest_replays (
    file_no       INT UNSIGNED      NOT NULL,
    ordinal       INT UNSIGNED      NOT NULL,
    text          LONGBLOB          NOT NULL,
    replayed_at   DATETIME(6)       NOT NULL,
    PRIMARY KEY (file_no, ordinal)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What the engine keeps for itself, such as the key of the frames' checksums.
CREATE TABLE IF NOT EXISTS ingest_settings (
    name          VARCHAR(64)       NOT NULL,
    value         VARBINARY(255)    NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
