-- The definition by which the text of a replay became its row; NULL for replays of earlier releases.

ALTER TABLE ingest_replays ADD COLUMN definition BLOB NULL;
