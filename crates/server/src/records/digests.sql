-- A download has two digests. Builds before this step, which were never released, recorded SHA-256 only:
-- their downloads stay on disk, and their records cannot be read, because they lack BLAKE3. From this
-- step on, checkpoint_digest is BLAKE3, so a partial of such a build is received again.

ALTER TABLE transfers RENAME COLUMN download_digest TO download_sha256;
ALTER TABLE transfers ADD COLUMN download_blake3 TEXT; -- the digest that agent and server compared
