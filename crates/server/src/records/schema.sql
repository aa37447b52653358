-- The first version of the records. Times are milliseconds since 1970, UTC; digests are SHA-256
-- in hexadecimal; NULL means that there is nothing to say yet. To read it by hand:
--   sqlite3 -readonly server-data/.filepull/records.db 'SELECT id, client, state FROM transfers'

CREATE TABLE transfers (
    id                 TEXT PRIMARY KEY, -- UUIDv7
    client             TEXT NOT NULL,    -- whose file
    path               TEXT,             -- which file; NULL is the client's default file
    requested_by       TEXT NOT NULL,    -- who asked
    created_at         BIGINT NOT NULL,  -- when it was asked for
    queue_until        BIGINT,           -- when the client must have come back
    started_at         BIGINT,           -- when the first order went out
    finished_at        BIGINT,           -- when it became done, failed or cancelled
    attempt            BIGINT NOT NULL,  -- counts the orders sent
    epoch              BIGINT NOT NULL DEFAULT 0,  -- the client's session that got the newest order
    node               TEXT NOT NULL DEFAULT '',   -- the server that owns it; '' is the only server
    generation         BIGINT NOT NULL,  -- counts the partials begun: <id>-<generation>.tmp
    changed            BIGINT NOT NULL,  -- how often the source changed while it was read
    damaged            BIGINT NOT NULL,  -- how often an upload arrived damaged
    stalled            BIGINT NOT NULL,  -- how often in a row no byte came for too long
    state              TEXT NOT NULL,    -- queued, receiving, sealed, done, failed or cancelled

    -- the source as the agent last opened it; NULL if it never did
    source_name        TEXT,
    source_size        BIGINT,           -- bytes
    source_modified_ns BIGINT,           -- nanoseconds since 1970

    -- receiving: what of the partial survives a power cut
    checkpoint_len     BIGINT,           -- bytes
    checkpoint_digest  TEXT,             -- of those bytes

    -- sealed, done: the file
    download_name      TEXT,             -- in the client's folder
    download_size      BIGINT,           -- bytes
    download_digest    TEXT,
    download_inode     BIGINT,           -- a 64-bit number; negative from 2^63 on
    object_key         TEXT,             -- in an object store; NULL is the client's folder

    -- failed, cancelled: how far it had come, and why it ended
    received           BIGINT,           -- bytes
    error_code         TEXT,             -- as in /problems/<code>
    error_detail       TEXT,             -- what happened
    error_hint         TEXT,             -- what to do next

    row_check          TEXT NOT NULL     -- a digest of the rest of the row
);

CREATE INDEX transfers_by_time ON transfers (created_at, id);
CREATE INDEX transfers_by_client ON transfers (client, created_at, id);
CREATE INDEX transfers_by_state ON transfers (state, created_at, id);
CREATE INDEX transfers_by_error ON transfers (error_code, created_at, id)
    WHERE error_code IS NOT NULL;
CREATE INDEX transfers_done ON transfers (client, finished_at, id) WHERE state = 'done';
CREATE INDEX transfers_done_by_path ON transfers (client, path, finished_at, id)
    WHERE state = 'done' AND path IS NOT NULL;
CREATE INDEX transfers_by_name ON transfers (client, download_name)
    WHERE download_name IS NOT NULL;
CREATE INDEX transfers_unfinished ON transfers (created_at, id)
    WHERE state NOT IN ('done', 'failed', 'cancelled');

CREATE TABLE request_keys (
    id       TEXT PRIMARY KEY, -- an Idempotency-Key, as its caller chose it
    request  TEXT NOT NULL,    -- the digest of what was asked for with it
    transfer TEXT NOT NULL,    -- what it leads to
    made_at  BIGINT NOT NULL   -- when it came first
);

CREATE INDEX request_keys_by_time ON request_keys (made_at);

CREATE TABLE cancels (
    transfer TEXT PRIMARY KEY, -- was not final when its cancel was accepted
    detail   TEXT NOT NULL     -- who cancelled it, and when
);

CREATE TABLE clients (
    id                  TEXT PRIMARY KEY, -- as its agent claims it
    epoch               BIGINT NOT NULL,  -- counts its lines; only the newest may act for it
    connected           BIGINT NOT NULL,  -- 1 while its line is open; see clients.rs
    agent_version       TEXT NOT NULL,    -- what its agent said when it last connected…
    agent_os            TEXT NOT NULL,
    agent_arch          TEXT NOT NULL,
    agent_hostname      TEXT NOT NULL,
    shares              TEXT NOT NULL,    -- a JSON list: what a path may ask for
    default_name        TEXT,             -- the file that a trigger without a path would send…
    default_size        BIGINT,           -- bytes
    default_modified_ns BIGINT,           -- nanoseconds since 1970
    default_error       TEXT,             -- why there is none, as in /problems/<code>
    remote_addr         TEXT NOT NULL,    -- where it last dialled from
    connected_at        BIGINT NOT NULL,  -- when its last line opened
    last_seen_at        BIGINT NOT NULL,  -- when it was last heard, as far as was noted
    disconnected_at     BIGINT,           -- how its last line ended, if one ever did: when…
    disconnect_reason   TEXT,             -- in one word…
    disconnect_detail   TEXT              -- and in a few
);

CREATE INDEX clients_by_folded_id ON clients (lower(id));
CREATE INDEX clients_by_last_seen ON clients (last_seen_at DESC, id);
CREATE INDEX clients_by_name ON clients (id, agent_hostname);
CREATE INDEX clients_connected ON clients (connected) WHERE connected <> 0;
