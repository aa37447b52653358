-- Does not change a final row or the row of a later attempt, and then returns no row. Saving the same
-- row again is not an error.
INSERT INTO transfers (
    id, client, path, requested_by, created_at, queue_until, started_at, finished_at,
    attempt, epoch, generation, changed, damaged, stalled, state,
    source_name, source_size, source_modified_ns, checkpoint_len, checkpoint_digest,
    download_name, download_size, download_blake3, download_sha256, download_inode,
    received, error_code, error_detail, error_hint, mode, sent, base_use, unchanged_since, row_check
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8,
    $9, $10, $11, $12, $13, $14,
    $15, $16, $17, $18, $19,
    $20, $21, $22, $23, $24,
    $25, $26, $27, $28, $29, $30,
    $31, $32, $33, $34
)
ON CONFLICT (id) DO UPDATE SET
    client = excluded.client,
    path = excluded.path,
    requested_by = excluded.requested_by,
    created_at = excluded.created_at,
    queue_until = excluded.queue_until,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    attempt = excluded.attempt,
    epoch = excluded.epoch,
    generation = excluded.generation,
    changed = excluded.changed,
    damaged = excluded.damaged,
    stalled = excluded.stalled,
    state = excluded.state,
    source_name = excluded.source_name,
    source_size = excluded.source_size,
    source_modified_ns = excluded.source_modified_ns,
    checkpoint_len = excluded.checkpoint_len,
    checkpoint_digest = excluded.checkpoint_digest,
    download_name = excluded.download_name,
    download_size = excluded.download_size,
    download_blake3 = excluded.download_blake3,
    download_sha256 = excluded.download_sha256,
    download_inode = excluded.download_inode,
    received = excluded.received,
    error_code = excluded.error_code,
    error_detail = excluded.error_detail,
    error_hint = excluded.error_hint,
    mode = excluded.mode,
    sent = excluded.sent,
    base_use = excluded.base_use,
    unchanged_since = excluded.unchanged_since,
    row_check = excluded.row_check
WHERE transfers.row_check = excluded.row_check
    OR (transfers.state NOT IN ('done', 'unchanged', 'failed', 'cancelled')
        AND transfers.attempt <= excluded.attempt)
RETURNING 1
