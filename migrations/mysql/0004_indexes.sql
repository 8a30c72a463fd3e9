-- Indexes that a load has dropped or is about to drop, and that are built again after it.
--
-- An entry is written before its index is dropped, and deleted once the index exists again.
-- `definition`: the index as in CREATE TABLE. `position`: its place among the indexes of the table.

CREATE TABLE IF NOT EXISTS ingest_indexes (
    table_name    VARCHAR(64)       NOT NULL,
    index_name    VARCHAR(64)       NOT NULL,
    position      INT UNSIGNED      NOT NULL,
    definition    MEDIUMTEXT        NOT NULL,
    dropped_at    DATETIME(6)       NOT NULL,
    PRIMARY KEY (table_name, index_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
