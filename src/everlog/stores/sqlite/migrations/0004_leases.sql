-- The last lease of a session. It stays when it has ended, so that its number is never given again.
CREATE TABLE lease (
  session INTEGER PRIMARY KEY REFERENCES session,
  number INTEGER NOT NULL,          -- the token: grows with every lease
  nonce BLOB NOT NULL,              -- 16 random bytes; none for a session that begins above the tokens of another
  holder TEXT,                      -- NULL once it was given back
  boot TEXT NOT NULL,               -- which start of the machine `until` counts from
  until INTEGER NOT NULL,           -- microseconds since that start
  ttl INTEGER NOT NULL,             -- microseconds
  taken INTEGER NOT NULL,           -- microseconds since 1970 UTC
  floor INTEGER NOT NULL,           -- the highest token on record that came from elsewhere: the next is above it too
  checksum BLOB NOT NULL            -- of all of the row
);
CREATE INDEX lease_held ON lease (boot, until) WHERE holder IS NOT NULL;
