-- Changes only the columns of a checkpoint, and only if the other columns are as the caller knows
-- them, so that the new checksum is valid for the whole row. Otherwise returns no row.
UPDATE transfers SET
    source_name = $10,
    source_size = $11,
    source_modified_ns = $12,
    checkpoint_len = $13,
    checkpoint_digest = $14,
    sent = $15,
    base_use = $16,
    row_check = $17
WHERE id = $1 AND state = 'receiving' AND attempt = $2 AND epoch = $3 AND generation = $4
    AND changed = $5 AND damaged = $6 AND stalled = $7
    AND queue_until IS NOT DISTINCT FROM $8 AND started_at IS NOT DISTINCT FROM $9
RETURNING 1
