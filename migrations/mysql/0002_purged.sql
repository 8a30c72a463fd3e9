-- Rejects that an operator removed for good: the records stay accounted for, so that the audit of
-- their file still adds up, and what was in them is gone.

CREATE TABLE IF NOT EXISTS ingest_purged (
    file_no       INT UNSIGNED      NOT NULL,
    ordinal       INT UNSIGNED      NOT NULL,
    purged_at     DATETIME(6)       NOT NULL,
    PRIMARY KEY (file_no, ordinal)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
