-- What the identity of a file consists of, if its definition takes values from the file's path.
--
-- `hash`: the identity, as in `ingest_files`. `content`: the hash of the file's bytes. `path_values`:
-- a JSON object with a value for each pattern of the definition. A file without an entry here has
-- the hash of its bytes as its identity.

CREATE TABLE IF NOT EXISTS ingest_identities (
    hash          BINARY(16)        NOT NULL,
    content       BINARY(16)        NOT NULL,
    path_values   MEDIUMTEXT        NOT NULL,
    PRIMARY KEY (hash),
    KEY ingest_identities_content (content)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
