-- Rows that are no longer kept, which were removed with their partition.
--
-- `ingest_retired`: how many records of a file had such rows, or were superseded by one.
CREATE TABLE IF NOT EXISTS ingest_retired (
    file_no       INT UNSIGNED      NOT NULL,
    records       INT UNSIGNED      NOT NULL,
    retired_at    DATETIME(6)       NOT NULL,
    PRIMARY KEY (file_no)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- A table of which partitions were removed. A record whose time in `time_column` is before
-- `rows_before` and that the ledger covers is not stored again. `taken`: the partition that is being
-- removed; its rows are in the table or in `ingest_retiring_…` with the number `side`. `last_file`:
-- a commit of records of a file up to this number compares each of them with the table first.
CREATE TABLE IF NOT EXISTS ingest_retentions (
    table_name    VARCHAR(64)       NOT NULL,
    time_column   VARCHAR(64)       NOT NULL,
    rows_before   DATETIME(6)       NOT NULL,
    taken         VARCHAR(64)       NULL,
    side          INT UNSIGNED      NOT NULL,
    last_file     INT UNSIGNED      NOT NULL,
    PRIMARY KEY (table_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
