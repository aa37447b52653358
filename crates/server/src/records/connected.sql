INSERT INTO clients (
    id, epoch, connected, agent_version, agent_os, agent_arch, agent_hostname, shares,
    default_name, default_size, default_modified_ns, remote_addr, connected_at, last_seen_at,
    default_error
)
SELECT $1, 1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12
-- A new id that differs from a known id by letter case only would share its folder on some disks.
WHERE EXISTS (SELECT 1 FROM clients WHERE id = $1)
    OR NOT EXISTS (SELECT 1 FROM clients WHERE lower(id) = lower($1))
        AND (SELECT COUNT(*) FROM clients) < $13
ON CONFLICT (id) DO UPDATE SET
    epoch = clients.epoch + 1,
    connected = 1,
    agent_version = excluded.agent_version,
    agent_os = excluded.agent_os,
    agent_arch = excluded.agent_arch,
    agent_hostname = excluded.agent_hostname,
    shares = excluded.shares,
    default_name = excluded.default_name,
    default_size = excluded.default_size,
    default_modified_ns = excluded.default_modified_ns,
    default_error = excluded.default_error,
    remote_addr = excluded.remote_addr,
    connected_at = excluded.connected_at,
    last_seen_at = excluded.last_seen_at
RETURNING epoch, id, disconnected_at, disconnect_reason, disconnect_detail
