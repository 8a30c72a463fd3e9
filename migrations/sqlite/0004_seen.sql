-- Files of archives as they lay on the disk when they were loaded, so that a later load recognises
-- them without opening them.
--
-- `path`: a digest of the path. `state`: a digest of device, inode, size, mtime and ctime, of the
-- content's hash, of the number of entries of the path, and of the definitions of the datasets.

CREATE TABLE IF NOT EXISTS ingest_seen (
    path          BLOB    NOT NULL,
    file_no       INTEGER NOT NULL,
    state         BLOB    NOT NULL,
    PRIMARY KEY (path, file_no)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS ingest_seen_file ON ingest_seen (file_no);
