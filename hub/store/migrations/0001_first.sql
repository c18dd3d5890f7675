-- The first schema. Rules for what follows: docs/OPERATIONS.md, "Upgrade".
-- A migration only adds (expand); what older software still reads goes away in a later one (contract), which then
-- raises schema_info.min_reader to the version that stopped reading it.

CREATE TABLE schema_info (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- Software whose newest migration is older than this must not use the schema.
    min_reader bigint NOT NULL
);
INSERT INTO schema_info (min_reader) VALUES (1);

CREATE TABLE spokes (
    name text PRIMARY KEY,
    -- Of the Spoke resource; empty for a spoke that no resource declares.
    uid text NOT NULL,
    spoke_type text NOT NULL,
    operations text[] NOT NULL,
    scopes text[] NOT NULL,
    labels jsonb NOT NULL,
    concurrency bigint,
    suspended boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    first_connected_at timestamptz,
    connected_at timestamptz,
    disconnected_at timestamptz,
    last_heartbeat_at timestamptz
);

CREATE TABLE keys (
    id uuid PRIMARY KEY,
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    -- Which secret made the hash, so that the secret can be changed.
    hash_key_id text NOT NULL,
    -- admin: from the admin key's file; api: made through the admin API; spoke: minted for a Spoke resource.
    origin text NOT NULL CHECK (origin IN ('admin', 'api', 'spoke')),
    name text NOT NULL,
    hint text NOT NULL,
    scopes text[] NOT NULL,
    spoke text,
    -- The fence: the key is dead unless the spoke of that name still has this uid.
    spoke_uid text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    -- Revoked because its spoke went; the same spoke (by uid) may bring it back. One revoked by hand stays so.
    revoked_with_spoke boolean NOT NULL DEFAULT false,
    -- A newer key of the spoke took its place.
    superseded_at timestamptz,
    CHECK ((spoke IS NULL) = (spoke_uid IS NULL))
);
CREATE INDEX keys_spoke ON keys (spoke) WHERE spoke IS NOT NULL;

CREATE TABLE operations (
    -- SHA-256 of spec, which is canonical JSON.
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    name text NOT NULL,
    spec text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each ended call, in partitions of an hour by its end: old hours are dropped, never deleted from.
CREATE TABLE calls (
    ended_at timestamptz NOT NULL,
    call_id uuid NOT NULL,
    duration_us bigint NOT NULL,
    input_bytes bigint NOT NULL,
    output_bytes bigint NOT NULL,
    operation text NOT NULL,
    status text NOT NULL,
    code text,
    caller text NOT NULL,
    spoke text,
    hub_id text NOT NULL,
    request_id text NOT NULL,
    parent_request_id text,
    trace_id text,
    PRIMARY KEY (ended_at, call_id)
) PARTITION BY RANGE (ended_at);
CREATE INDEX calls_operation ON calls (operation, ended_at, call_id);
CREATE INDEX calls_caller ON calls (caller, ended_at, call_id);
CREATE INDEX calls_not_completed ON calls (ended_at, call_id) WHERE status <> 'completed';

-- Makes the partition of an hour unless it is there. ATTACH, because CREATE … PARTITION OF would lock out inserts.
CREATE FUNCTION calls_ensure(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first timestamptz := date_trunc('hour', at, 'UTC');
    partition text := 'calls_' || to_char(first AT TIME ZONE 'UTC', 'YYYYMMDDHH24');
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN;
    END IF;
    -- What ATTACH takes anyway. It lets inserts pass, and makes this session see a partition that was made meanwhile.
    LOCK TABLE calls IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass(partition) IS NULL THEN
        EXECUTE format('CREATE TABLE %I (LIKE calls INCLUDING ALL)', partition);
        EXECUTE format('ALTER TABLE calls ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       partition, first, first + interval '1 hour');
    END IF;
END
$$;

-- Drops the oldest partition that ended before a time; says whether there was one. A reader in its way makes it give
-- up after two seconds, so that inserts do not queue behind it.
CREATE FUNCTION calls_drop_oldest(before timestamptz) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    boundary text := 'calls_' || to_char(date_trunc('hour', before, 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDDHH24');
    oldest text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.calls_drop_oldest', 0)) THEN
        RETURN false;
    END IF;
    SELECT c.relname INTO oldest
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'calls'::regclass AND c.relname::text COLLATE "C" < boundary
    ORDER BY c.relname::text COLLATE "C"
    LIMIT 1;
    IF oldest IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', oldest);
    RETURN true;
END
$$;
