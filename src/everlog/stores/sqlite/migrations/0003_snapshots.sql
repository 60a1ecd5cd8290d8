-- States kept so that they need not be folded again: a projection.
ALTER TABLE store ADD COLUMN erasures INTEGER NOT NULL DEFAULT 0;
CREATE TABLE snapshot (
  snapshot INTEGER PRIMARY KEY,
  branch INTEGER NOT NULL,          -- that owns the event before the cut
  size INTEGER NOT NULL,            -- the cut
  reducer TEXT NOT NULL,
  version TEXT NOT NULL,            -- that the reducer declares
  fingerprint BLOB NOT NULL,        -- 16 bytes: of the reducer's version, source and helpers
  base_branch INTEGER,              -- of the snapshot that this is a delta from; NULL for a keyframe
  base_size INTEGER,
  depth INTEGER NOT NULL,           -- deltas down to the keyframe
  plain INTEGER NOT NULL,           -- bytes of the state's JSON
  notes BLOB NOT NULL,              -- JSON: events that the state lacks
  taken INTEGER NOT NULL,
  content BLOB NOT NULL,            -- zstd
  checksum BLOB NOT NULL            -- 16 bytes, of all of the row
);
CREATE UNIQUE INDEX snapshot_place ON snapshot (branch, fingerprint, size);
