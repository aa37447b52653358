-- How much of a file a transfer sends, and the outcome without a file.

ALTER TABLE transfers ADD COLUMN mode TEXT NOT NULL DEFAULT 'changes';    -- changes, if-changed or all
ALTER TABLE transfers ADD COLUMN sent BIGINT NOT NULL DEFAULT 0;          -- bytes of content on the wire
ALTER TABLE transfers ADD COLUMN base_use TEXT NOT NULL DEFAULT 'unused'; -- unused, copied or failed
ALTER TABLE transfers ADD COLUMN unchanged_since TEXT; -- unchanged: the download that the file equals

-- A transfer of state `unchanged` has ended, too.
DROP INDEX transfers_unfinished;
CREATE INDEX transfers_unfinished ON transfers (created_at, id)
    WHERE state NOT IN ('done', 'unchanged', 'failed', 'cancelled');

-- Finds the last download of a path, also of the default file, whose path is NULL.
DROP INDEX transfers_done_by_path;
CREATE INDEX transfers_done_by_path ON transfers (client, path, finished_at, id)
    WHERE state = 'done';
