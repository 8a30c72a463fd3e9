-- Records that have no row because the row of another record has the same key. `winner` is the id of
-- that row. An entry counts only while the table has this row.

CREATE TABLE IF NOT EXISTS ingest_superseded (
    file_no       INT UNSIGNED      NOT NULL,
    ordinal       INT UNSIGNED      NOT NULL,
    winner        BIGINT UNSIGNED   NOT NULL,
    superseded_at DATETIME(6)       NOT NULL,
    PRIMARY KEY (file_no, ordinal),
    KEY ingest_superseded_winner (winner)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
