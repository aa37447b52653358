-- When each download was last read back from the disk, and what was found.
CREATE TABLE scrubs (
    transfer TEXT PRIMARY KEY, -- has a download on record
    read_at  BIGINT NOT NULL,  -- when its last reading ended
    state    TEXT NOT NULL     -- stored, damaged or deleted
);

CREATE INDEX scrubs_by_time ON scrubs (read_at);
CREATE INDEX scrubs_damaged ON scrubs (read_at) WHERE state = 'damaged';

-- Finds the downloads that have not been read yet, without a look into the table.
CREATE INDEX transfers_by_end ON transfers (finished_at, id, state) WHERE finished_at IS NOT NULL;
