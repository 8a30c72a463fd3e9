-- The processes of the service, by node. `epoch` grows with each process of a node. All times are by
-- the clock of the database.
CREATE TABLE IF NOT EXISTS ingest_nodes (
    node          VARCHAR(190)      NOT NULL,
    roles         VARCHAR(64)       NOT NULL,
    version       VARCHAR(64)       NOT NULL,
    epoch         BIGINT UNSIGNED   NOT NULL,
    started_at    DATETIME(6)       NOT NULL,
    beat_at       DATETIME(6)       NOT NULL,
    PRIMARY KEY (node)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Work that one process at a time does: the process that has it, and when it last said so.
CREATE TABLE IF NOT EXISTS ingest_leases (
    name          VARCHAR(64)       NOT NULL,
    node          VARCHAR(190)      NOT NULL,
    epoch         BIGINT UNSIGNED   NOT NULL,
    renewed_at    DATETIME(6)       NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
