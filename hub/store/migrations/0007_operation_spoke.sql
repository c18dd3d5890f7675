-- Whose specification a row is, so that what one spoke leaves behind is bounded.
-- Only adds. Software of before writes rows without it; they go by their age alone, as before.

ALTER TABLE operations ADD COLUMN spoke text;
CREATE INDEX operations_spoke ON operations (spoke) WHERE spoke IS NOT NULL;
