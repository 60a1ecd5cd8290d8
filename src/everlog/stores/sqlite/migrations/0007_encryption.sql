-- Bodies may be encrypted: each under a data key of its own, which is kept here, wrapped with a key that the store does not hold.
CREATE TABLE wrapping_key (
  id BLOB NOT NULL PRIMARY KEY,     -- 16 bytes, made from the key
  made INTEGER NOT NULL,
  retired INTEGER                   -- NULL for the one that new data keys are wrapped with
) WITHOUT ROWID;

-- The key of an event's body and attachments. Without its row they cannot be read, wherever a copy of them lies.
CREATE TABLE data_key (
  branch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  wrapping BLOB NOT NULL,           -- which key wraps it
  wrapped BLOB NOT NULL,            -- 12 bytes of nonce, and AES-256-GCM of the key
  PRIMARY KEY (branch, position)
) WITHOUT ROWID;
