-- Tells by itself which secret made a hash: keys of another secret than the hub's can be used by nobody, and a list of
-- keys must not call them valid. NULL: made before it was recorded; filled in when the key is used.
ALTER TABLE keys ADD COLUMN hash_key_fingerprint text;
