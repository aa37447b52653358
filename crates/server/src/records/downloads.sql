-- The newest download of a path, and whether a name is on record.

CREATE INDEX transfers_done_by_path ON transfers (client, path, finished_at, id)
    WHERE state = 'done' AND path IS NOT NULL;
CREATE INDEX transfers_by_name ON transfers (client, download_name)
    WHERE download_name IS NOT NULL;
