-- Rows that nobody needs are deleted: when each specification was last offered, and what finds the rows.
-- Only adds. Software of 0001 writes operations without the new column, whose default then holds; it never touches
-- them, so a retention must be longer than a roll-out.

ALTER TABLE operations ADD COLUMN last_offered_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX operations_last_offered ON operations (last_offered_at);
-- Tells a name that was offered once from one that never was.
CREATE INDEX operations_name ON operations (name);

-- When a key ended: the earlier of its revocation and its expiry.
CREATE INDEX keys_ended ON keys (LEAST(revoked_at, expires_at)) WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL;
