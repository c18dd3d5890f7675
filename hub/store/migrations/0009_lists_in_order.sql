-- The orders in which spokes and keys are listed, page by page. Only adds.

-- The list is by the bytes of names; the primary key is in the order of the database's language, and serves no page.
CREATE INDEX spokes_name_bytes ON spokes (name COLLATE "C");
CREATE INDEX keys_created ON keys (created_at, id);
