-- Files of archives as they lay on the disk when they were loaded, so that a later load recognises
-- them without opening them.
--
-- `path`: a digest of the path. `state`: a digest of device, inode, size, mtime and ctime, of the
-- content's hash, of the number of entries of the path, and of the definitions of the datasets.

CREATE TABLE IF NOT EXISTS ingest_seen (
    path          BINARY(16)        NOT NULL,
    file_no       INT UNSIGNED      NOT NULL,
    state         BINARY(16)        NOT NULL,
    PRIMARY KEY (path, file_no),
    KEY ingest_seen_file (file_no)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
