-- Who may connect, and proof of what was done. Times are milliseconds since 1970, UTC; digests are SHA-256
-- in hexadecimal.

-- An enrolled client has a row in `clients` too, from its enrolment on.
CREATE TABLE client_keys (
    client           TEXT PRIMARY KEY, -- the id that the key stands for
    fingerprint      TEXT NOT NULL,    -- digest of the public key (DER of SubjectPublicKeyInfo)
    next_fingerprint TEXT,             -- digest of the key that follows, during a rotation
    pending          BIGINT NOT NULL,  -- 1 until an operator approves the client
    labels           TEXT NOT NULL,    -- a JSON object of strings
    invite           TEXT NOT NULL,    -- the invite that it was enrolled with
    enrolled_at      BIGINT NOT NULL,  -- when the key was first on record
    enrolled_from    TEXT NOT NULL,    -- the address that it enrolled from
    rotated_at       BIGINT NOT NULL,  -- when the key last changed
    pins             TEXT NOT NULL     -- a JSON list: the pins that its agent has stored
);

CREATE UNIQUE INDEX client_keys_by_fingerprint ON client_keys (fingerprint);
CREATE UNIQUE INDEX client_keys_by_next ON client_keys (next_fingerprint)
    WHERE next_fingerprint IS NOT NULL;
CREATE INDEX client_keys_pending ON client_keys (client) WHERE pending = 1;

CREATE TABLE invites (
    id          TEXT PRIMARY KEY, -- UUIDv7, for lists and for the audit
    secret_hash TEXT NOT NULL,    -- digest of the secret, which is not stored
    client      TEXT,             -- the only id that it enrols; NULL for a group
    group_name  TEXT,             -- of a group invite
    uses        BIGINT NOT NULL,  -- how many clients it may enrol
    used        BIGINT NOT NULL,  -- how many clients it has enrolled
    approve     BIGINT NOT NULL,  -- 1: its clients are pending until they are approved
    replace_key BIGINT NOT NULL,  -- 1: it may replace the key of its client
    labels      TEXT NOT NULL,    -- a JSON object of strings, for its clients
    created_at  BIGINT NOT NULL,
    created_by  TEXT NOT NULL,
    expires_at  BIGINT NOT NULL
);

CREATE UNIQUE INDEX invites_by_secret ON invites (secret_hash);
CREATE INDEX invites_by_client ON invites (client) WHERE client IS NOT NULL;
CREATE INDEX invites_by_expiry ON invites (expires_at);

CREATE TABLE redemptions (
    invite      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,    -- the key that used the invite; the same key may use it again
    client      TEXT NOT NULL,
    redeemed_at BIGINT NOT NULL,
    PRIMARY KEY (invite, fingerprint)
);

CREATE TABLE receipts (
    transfer TEXT PRIMARY KEY,
    jws      TEXT NOT NULL        -- what the agent signed: a JWS in compact form
);

CREATE TABLE audit (
    seq      BIGINT PRIMARY KEY,  -- 1, 2, 3, ... without a gap
    at       BIGINT NOT NULL,
    actor    TEXT NOT NULL,       -- the name of a token, a user, a client, or the server itself
    address  TEXT NOT NULL,       -- where the request came from
    action   TEXT NOT NULL,       -- such as transfer.requested
    subject  TEXT NOT NULL,       -- a client, a transfer, a token, a setting
    detail   TEXT NOT NULL,       -- a JSON object
    request  TEXT NOT NULL,       -- the id of the request
    previous TEXT NOT NULL,       -- digest of the record before this one
    digest   TEXT NOT NULL        -- digest of this record and of `previous`
);

CREATE INDEX audit_by_time ON audit (at, seq);
CREATE INDEX audit_by_subject ON audit (subject, seq);

CREATE TABLE token_uses (
    name         TEXT PRIMARY KEY, -- of a token of TOKENS_FILE
    last_used_at BIGINT NOT NULL
);
