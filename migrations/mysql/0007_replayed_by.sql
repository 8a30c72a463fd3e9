-- The definition by which the text of a replay became its row; NULL for replays of earlier releases.
--
-- A column that exists already counts as done: this file may run twice.

ALTER TABLE ingest_replays ADD COLUMN definition BINARY(16) NULL;
