-- A key belongs to the transfer of its first request until it expires. Returns the row of the key.
INSERT INTO request_keys (id, request, transfer, made_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET
    request = CASE WHEN request_keys.made_at < $5
        THEN excluded.request ELSE request_keys.request END,
    transfer = CASE WHEN request_keys.made_at < $5
        THEN excluded.transfer ELSE request_keys.transfer END,
    made_at = CASE WHEN request_keys.made_at < $5
        THEN excluded.made_at ELSE request_keys.made_at END
RETURNING id, request, transfer
