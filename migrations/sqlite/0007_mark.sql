-- A hash of inode and mtime of the file as it was read: `verify` recognises the file in history by it.
-- NULL for files of earlier releases.

ALTER TABLE ingest_files ADD COLUMN mark INTEGER NULL;
