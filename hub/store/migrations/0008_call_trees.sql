-- Where a call stands in the tree of calls that one led to. Older hubs write neither: their records stand alone.

ALTER TABLE calls ADD COLUMN root_call_id uuid;
ALTER TABLE calls ADD COLUMN parent_call_id uuid;
