-- A hash of inode and mtime of the file as it was read: `verify` recognises the file in history by it.
-- NULL for files of earlier releases.
--
-- A column that exists already counts as done: this file may run twice.

ALTER TABLE ingest_files ADD COLUMN mark BIGINT UNSIGNED NULL;
