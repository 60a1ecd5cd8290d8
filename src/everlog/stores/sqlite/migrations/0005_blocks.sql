-- Cold bodies leave their rows: up to 64 of one branch in a zstd frame, and what is long and repeats once a store.
CREATE TABLE dictionary (
  digest BLOB NOT NULL PRIMARY KEY, -- the first 16 bytes of the content's SHA-256
  kind TEXT NOT NULL,               -- of event
  made INTEGER NOT NULL,
  content BLOB NOT NULL             -- zstd's
) WITHOUT ROWID;

-- A file in object storage that holds blocks. The row is there before the bytes and goes after them.
CREATE TABLE object (
  id BLOB NOT NULL PRIMARY KEY,     -- 16 random bytes
  url TEXT NOT NULL,                -- of the place that it lies in, without credentials
  name TEXT NOT NULL,               -- below the url
  size INTEGER NOT NULL,
  checksum BLOB NOT NULL,           -- SHA-256
  state TEXT NOT NULL,              -- writing, kept, tainted, leaving
  made INTEGER NOT NULL
) WITHOUT ROWID;

-- A block of bodies, or one string or attachment that is kept once.
CREATE TABLE block (
  block INTEGER PRIMARY KEY AUTOINCREMENT,
  branch INTEGER,                   -- whose own events they are; NULL for what is kept once
  start INTEGER NOT NULL,           -- positions [start, stop)
  stop INTEGER NOT NULL,
  digest BLOB,                      -- SHA-256 of what is kept once; NULL for a block of bodies
  kind TEXT,                        -- of event, that most bytes are of
  newest INTEGER NOT NULL,          -- time of the last event in it, or that held it when it was packed
  dictionary BLOB,                  -- digest
  plain INTEGER NOT NULL,           -- bytes that it gives back
  size INTEGER NOT NULL,            -- bytes of its content
  checksum BLOB NOT NULL,           -- SHA-256 of its content
  object BLOB,                      -- where its content is, once archived
  place INTEGER,                    -- where in the object it begins
  content BLOB                      -- NULL once archived
);
CREATE UNIQUE INDEX block_place ON block (branch, start) WHERE branch IS NOT NULL;
CREATE UNIQUE INDEX block_digest ON block (digest) WHERE digest IS NOT NULL;
CREATE INDEX block_object ON block (object) WHERE object IS NOT NULL;
CREATE INDEX block_newest ON block (newest) WHERE object IS NULL;

-- Which events hold what is kept once.
CREATE TABLE sharing (
  branch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY (branch, position, digest)
) WITHOUT ROWID;
CREATE INDEX sharing_digest ON sharing (digest);

ALTER TABLE branch ADD COLUMN packed INTEGER; -- own events below this position are packed; NULL for none
ALTER TABLE attachment ADD COLUMN digest BLOB; -- of the content, where it is kept once

-- An erasure looks for the summaries that stand for what goes, wherever they are.
CREATE INDEX event_summary ON event (branch, position) WHERE type = 'summary';
