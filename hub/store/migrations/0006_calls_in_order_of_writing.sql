-- Numbers call records in an order in which a reader can follow them: each hub writes late, and by when a call ended a
-- record may appear before others that were given already.

CREATE SEQUENCE calls_written AS bigint;

-- 0: written before there were numbers. A constant first, for it rewrites no table.
ALTER TABLE calls ADD COLUMN written bigint NOT NULL DEFAULT 0;
ALTER TABLE calls ALTER COLUMN written SET DEFAULT nextval('calls_written');
CREATE INDEX calls_written_order ON calls (written, ended_at, call_id);

-- Numbers are given in one order and are committed in another. Writers share a lock from before their first number to
-- their commit; who holds it alone knows that every number given so far is written, or never will be. By a trigger, so
-- that older hubs beside newer ones do it too.
CREATE FUNCTION calls_writing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(TG_TABLE_SCHEMA || '.calls_written', 0));
    RETURN NULL;
END
$$;
CREATE TRIGGER calls_writing BEFORE INSERT ON calls FOR EACH STATEMENT EXECUTE FUNCTION calls_writing();

-- The number up to which nothing is to come any more. Waits for the writers that are at it; those that come wait for this
-- statement.
CREATE FUNCTION calls_written_to() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.calls_written', 0));
    RETURN (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM calls_written);
END
$$;
