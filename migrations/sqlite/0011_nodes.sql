-- The processes of the service, by node. `epoch` grows with each process of a node.
CREATE TABLE IF NOT EXISTS ingest_nodes (
    node          TEXT    NOT NULL PRIMARY KEY,
    roles         TEXT    NOT NULL,
    version       TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    started_at    TEXT    NOT NULL,
    beat_at       TEXT    NOT NULL
);

-- Work that one process at a time does: the process that has it, and when it last said so.
CREATE TABLE IF NOT EXISTS ingest_leases (
    name          TEXT    NOT NULL PRIMARY KEY,
    node          TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    renewed_at    TEXT    NOT NULL
);
