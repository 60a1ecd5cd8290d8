-- The truth about an Everlog store in SQLite. Numbered files in migrations/ give the same, proven by a test.

-- One row: the store itself.
CREATE TABLE store (
  id BLOB NOT NULL,                 -- 16 random bytes; the same in a copy of the file
  created INTEGER NOT NULL,         -- microseconds since 1970 UTC, as all times here
  traces INTEGER NOT NULL DEFAULT 0, -- 1 while destroyed bytes may still stand in the write-ahead log
  erasures INTEGER NOT NULL DEFAULT 0 -- grows whenever anything is erased or deleted
);

-- Sessions forked from one another share a salt for their idempotency keys.
CREATE TABLE family (
  family INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,          -- 16 bytes
  key_salt BLOB NOT NULL            -- 32 random bytes
);

-- A session. A deleted one keeps its row, without anything that it was called.
CREATE TABLE session (
  session INTEGER PRIMARY KEY,
  id BLOB NOT NULL,                 -- 16 bytes, a UUID
  family INTEGER NOT NULL REFERENCES family,
  name TEXT UNIQUE,                 -- NULL once deleted
  title TEXT,
  labels TEXT NOT NULL,             -- a JSON object of strings
  metadata BLOB,                    -- a JSON object
  current INTEGER,                  -- branch
  parent BLOB,                      -- Cause.pack() of the event that the session was made for
  salt BLOB NOT NULL,               -- of the ledger's commitment to name, title and labels; emptied once deleted
  created INTEGER NOT NULL,
  deleted INTEGER,                  -- NULL while it lives
  checksum BLOB                     -- of the row and its family; NULL where an earlier version made it
);
CREATE UNIQUE INDEX session_id ON session (id) WHERE deleted IS NULL; -- a deleted one may be taken in again
CREATE INDEX session_created ON session (created);
CREATE INDEX session_parent ON session (parent) WHERE parent IS NOT NULL;

CREATE TABLE label (
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  session INTEGER NOT NULL REFERENCES session,
  PRIMARY KEY (name, value, session)
) WITHOUT ROWID;

-- A line of events. base is the branch that owns the event at base_size - 1.
CREATE TABLE branch (
  branch INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,          -- 16 bytes
  session INTEGER NOT NULL REFERENCES session,
  number INTEGER NOT NULL,          -- 1 for the session's first
  writer BLOB NOT NULL,             -- 16 bytes, under which its own events were hashed
  base INTEGER REFERENCES branch,
  base_size INTEGER NOT NULL,
  size INTEGER NOT NULL,            -- of the lineage
  recorded INTEGER NOT NULL,        -- of the last event of the lineage
  leaf BLOB,                        -- of the last event of the lineage
  peaks BLOB NOT NULL,              -- of the lineage's Merkle tree, 32 bytes each, largest first
  created INTEGER NOT NULL,
  swept INTEGER,                    -- of a deleted session: own events below this position are destroyed
  checksum BLOB,                    -- of what never changes in the row; NULL where an earlier version made it
  packed INTEGER,                   -- own events below this position are packed; NULL for none
  second INTEGER NOT NULL DEFAULT 0 -- of `recorded`, rounded up: 0 for no event alone; kept by the triggers
);
CREATE UNIQUE INDEX branch_number ON branch (session, number);
CREATE INDEX branch_base ON branch (base) WHERE base IS NOT NULL;
CREATE INDEX branch_second ON branch (second); -- and not of `recorded`, which would be written to by every append
CREATE INDEX branch_swept ON branch (swept) WHERE swept IS NOT NULL;
CREATE TRIGGER branch_made AFTER INSERT ON branch
BEGIN
  UPDATE branch SET second = (new.recorded + 999999) / 1000000 WHERE branch = new.branch;
END;
CREATE TRIGGER branch_grown AFTER UPDATE OF recorded ON branch WHEN (new.recorded + 999999) / 1000000 <> new.second
BEGIN
  UPDATE branch SET second = (new.recorded + 999999) / 1000000 WHERE branch = new.branch;
END;

-- An event. Its row never goes: a bare rowid would be used again, and who follows the feed would miss the next event.
CREATE TABLE event (
  feed INTEGER PRIMARY KEY,
  branch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  type TEXT,                        -- NULL, with all but leaf and nodes, once deleted
  actor TEXT,
  outcome TEXT,
  recorded INTEGER,
  occurred INTEGER,
  cause BLOB,                       -- writer (16), position (8, big-endian), leaf (32) of the event that caused it
  key TEXT,
  key_count INTEGER,                -- events that the key covers, when more than one
  key_hash BLOB,                    -- only where the plain key is not known here
  covers TEXT,                      -- JSON [[start, stop, hex hash], ...] of a summary
  gone INTEGER,                     -- why the body is not there: 1 erased, 2 withheld, 3 deleted
  attached TEXT,                    -- JSON [[name, size], ...]
  commitments BLOB,                 -- 32 bytes each: the body's, then each attachment's
  leaf BLOB NOT NULL,
  nodes BLOB NOT NULL,              -- that this leaf completes, lowest level first
  salt BLOB,
  body BLOB
);
CREATE UNIQUE INDEX event_position ON event (branch, position);
CREATE INDEX event_key ON event (branch, key) WHERE key IS NOT NULL;
CREATE INDEX event_named ON event (key) WHERE key IS NOT NULL;
CREATE INDEX event_cause ON event (branch, cause) WHERE cause IS NOT NULL;
CREATE INDEX event_checkpoint ON event (branch, position) WHERE type = 'checkpoint';
CREATE INDEX event_summary ON event (branch, position) WHERE type = 'summary';

CREATE TABLE attachment (
  branch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  number INTEGER NOT NULL,          -- order within the event
  name TEXT NOT NULL,
  size INTEGER NOT NULL,
  salt BLOB,
  content BLOB,
  digest BLOB                       -- of the content, where it is kept once
);
CREATE UNIQUE INDEX attachment_number ON attachment (branch, position, number);

-- Records of what happened to sessions themselves, pending until they have a place in the tree.
CREATE TABLE ledger (
  entry INTEGER PRIMARY KEY AUTOINCREMENT,
  record BLOB NOT NULL,             -- canonical JSON: what a seal covers
  reason TEXT                       -- given by the caller; not hashed
);

-- Which record says that an event's body was destroyed.
CREATE TABLE erasure (
  leaf BLOB NOT NULL PRIMARY KEY,
  entry INTEGER NOT NULL REFERENCES ledger
) WITHOUT ROWID;

-- States kept so that they need not be folded again: a projection.
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

-- Cold bodies leave their rows: neighbours of one branch in a zstd frame, and what is long and repeats once a store.
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

-- A record's place in the ledger's tree.
CREATE TABLE placed (
  place INTEGER PRIMARY KEY,
  entry INTEGER UNIQUE REFERENCES ledger, -- whose record it is; NULL for what the sealer added
  record BLOB,                      -- of what the sealer added
  branch BLOB,                      -- 16 bytes, of a record of a branch's head
  size INTEGER,                     -- that it says
  leaf BLOB NOT NULL,
  nodes BLOB NOT NULL               -- that this leaf completes, lowest level first
);
CREATE INDEX placed_branch ON placed (branch, size) WHERE branch IS NOT NULL;

-- One row once anything has a place: the ledger's tree.
CREATE TABLE tree (
  size INTEGER NOT NULL,
  peaks BLOB NOT NULL,              -- 32 bytes each, largest first
  feed INTEGER NOT NULL             -- of the last event whose branch's head is in the tree
);

-- A signed checkpoint of the ledger's tree.
CREATE TABLE seal (
  seal INTEGER PRIMARY KEY,
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  made INTEGER NOT NULL,
  digest BLOB NOT NULL UNIQUE,      -- SHA-256 of the note
  note BLOB NOT NULL
);
CREATE INDEX seal_size ON seal (size);

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
