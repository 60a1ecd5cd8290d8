-- The ledger becomes a tree: records have places in it, and seals say its size and root.

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
