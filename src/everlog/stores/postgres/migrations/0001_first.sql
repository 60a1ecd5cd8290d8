-- The first schema. Every key holds the bucket, and every statement of an append is about one bucket, so that the same tables can
-- be spread over machines by it. Keys of sessions, branches and ledger entries are made by whoever writes: bucket * 2^53 + number.
-- Every row has a tenant, the empty one where none is set; `everlog init --tenants` has the server keep tenants apart by it.

-- One row: the store itself.
CREATE TABLE {schema}.store (
  bucket smallint NOT NULL PRIMARY KEY, -- always 0
  id bytea NOT NULL,                    -- 16 random bytes; the same in a copy of the database
  version integer NOT NULL,             -- of the schema
  buckets smallint NOT NULL,            -- fixed when the store was made
  created bigint NOT NULL               -- microseconds since 1970 UTC, as all times here
);

-- Order within a bucket. A transaction that records events raises `feed` last and holds the row until it is committed, so that
-- whoever reads the events of a bucket by number never passes over one that is still to come.
CREATE TABLE {schema}.bucket (
  bucket smallint NOT NULL PRIMARY KEY,
  feed bigint NOT NULL,                 -- number of the last event
  erasures bigint NOT NULL              -- grows whenever anything is erased or deleted
) WITH (fillfactor = 10);

-- Which name is taken, and by what. bucket: of the name's hash; home: of the session, which it shares with all that were forked
-- from the same one.
CREATE TABLE {schema}.directory (
  bucket smallint NOT NULL,
  name text COLLATE "C" NOT NULL,
  home smallint NOT NULL,
  session bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant, name)
);

-- A session. A deleted one keeps its row, without anything that it was called.
CREATE TABLE {schema}.session (
  bucket smallint NOT NULL,
  session bigint NOT NULL,
  id bytea NOT NULL,                    -- 16 bytes, a UUID
  family bytea NOT NULL,                -- 16 bytes, shared with whatever was forked from the same session
  key_salt bytea NOT NULL,              -- 32 random bytes of the family
  name text COLLATE "C",                -- NULL once deleted
  title text,
  labels text NOT NULL,                 -- a JSON object of strings
  metadata bytea,                       -- a JSON object
  current bigint,                       -- branch
  parent bytea,                         -- Cause.pack() of the event that the session was made for
  salt bytea NOT NULL,                  -- of the ledger's commitment to name, title and labels; emptied once deleted
  created bigint NOT NULL,
  deleted bigint,                       -- NULL while it lives
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, session)
);
CREATE UNIQUE INDEX session_name ON {schema}.session (bucket, tenant, name) WHERE name IS NOT NULL;
CREATE UNIQUE INDEX session_id ON {schema}.session (bucket, id) WHERE deleted IS NULL; -- a deleted one may be taken in again
CREATE INDEX session_uuid ON {schema}.session (id);
CREATE INDEX session_created ON {schema}.session (created);
CREATE INDEX session_names ON {schema}.session (name) WHERE name IS NOT NULL;
CREATE INDEX session_parent ON {schema}.session (parent) WHERE parent IS NOT NULL;

CREATE TABLE {schema}.label (
  bucket smallint NOT NULL,
  name text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  session bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, session, name)
);
CREATE INDEX label_value ON {schema}.label (name, value);

-- A line of events, as it was made. base is the branch that owns the event at base_size - 1.
CREATE TABLE {schema}.branch (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  id bytea NOT NULL,                    -- 16 bytes
  session bigint NOT NULL,
  number integer NOT NULL,              -- 1 for the session's first
  writer bytea NOT NULL,                -- 16 bytes, under which its own events were hashed
  base bigint,
  base_size bigint NOT NULL,
  created bigint NOT NULL,
  swept bigint,                         -- of a deleted session: own events below this position are destroyed
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch)
);
CREATE UNIQUE INDEX branch_number ON {schema}.branch (bucket, session, number);
CREATE INDEX branch_id ON {schema}.branch (id);
CREATE INDEX branch_base ON {schema}.branch (bucket, base) WHERE base IS NOT NULL;
CREATE INDEX branch_swept ON {schema}.branch (swept) WHERE swept IS NOT NULL;

-- Where a branch ends: what every append changes. `minute` is the one indexed column, and mostly stays as it is, so that most
-- changes touch no index.
CREATE TABLE {schema}.tip (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  size bigint NOT NULL,                 -- of the lineage
  recorded bigint NOT NULL,             -- of the last event of the lineage
  minute bigint NOT NULL,               -- recorded, in minutes
  leaf bytea,                           -- of the last event of the lineage
  peaks bytea NOT NULL,                 -- of the lineage's Merkle tree, 32 bytes each, largest first
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch)
) WITH (fillfactor = 50);
CREATE INDEX tip_minute ON {schema}.tip (minute);

CREATE TABLE {schema}.event (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  position bigint NOT NULL,
  feed bigint NOT NULL,                 -- number within the bucket
  type text COLLATE "C",                -- NULL, with all but leaf and nodes, once deleted
  actor text COLLATE "C",
  outcome text COLLATE "C",
  recorded bigint,
  occurred bigint,
  cause bytea,                          -- writer (16), position (8, big-endian), leaf (32) of the event that caused it
  key text COLLATE "C",
  key_count integer,                    -- events that the key covers, when more than one
  key_hash bytea,                       -- only where the plain key is not known here
  covers text,                          -- JSON [[start, stop, hex hash], ...] of a summary
  gone smallint,                        -- why the body is not there: 1 erased, 2 withheld, 3 deleted
  attached text,                        -- JSON [[name, size], ...]
  commitments bytea,                    -- 32 bytes each: the body's, then each attachment's
  leaf bytea NOT NULL,
  nodes bytea NOT NULL,                 -- that this leaf completes, lowest level first
  salt bytea,
  body bytea,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch, position)
);
CREATE UNIQUE INDEX event_feed ON {schema}.event (bucket, feed);
CREATE INDEX event_key ON {schema}.event (bucket, branch, key) WHERE key IS NOT NULL;
CREATE INDEX event_named ON {schema}.event (key) WHERE key IS NOT NULL;
CREATE INDEX event_cause ON {schema}.event (bucket, branch, cause) WHERE cause IS NOT NULL;
CREATE INDEX event_checkpoint ON {schema}.event (bucket, branch, position) WHERE type = 'checkpoint';

CREATE TABLE {schema}.attachment (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  position bigint NOT NULL,
  number integer NOT NULL,              -- order within the event
  name text NOT NULL,
  size bigint NOT NULL,
  salt bytea,
  content bytea,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch, position, number)
);

-- Records of what happened to sessions themselves, pending until they are sealed.
CREATE TABLE {schema}.ledger (
  bucket smallint NOT NULL,
  entry bigint NOT NULL,
  record bytea NOT NULL,                -- canonical JSON: what a seal covers
  reason text,                          -- given by the caller; not hashed
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, entry)
);

-- Which record says that an event's body was destroyed.
CREATE TABLE {schema}.erasure (
  bucket smallint NOT NULL,
  leaf bytea NOT NULL,
  entry bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, leaf)
);
CREATE INDEX erasure_leaf ON {schema}.erasure (leaf);

-- States kept so that they need not be folded again: a projection.
CREATE TABLE {schema}.snapshot (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,               -- that owns the event before the cut
  fingerprint bytea NOT NULL,           -- 16 bytes: of the reducer's version, source and helpers
  size bigint NOT NULL,                 -- the cut
  reducer text NOT NULL,
  version text NOT NULL,                -- that the reducer declares
  base_branch bigint,                   -- of the snapshot that this is a delta from; NULL for a keyframe
  base_size bigint,
  depth integer NOT NULL,               -- deltas down to the keyframe
  plain bigint NOT NULL,                -- bytes of the state's JSON
  notes bytea NOT NULL,                 -- JSON: events that the state lacks
  taken bigint NOT NULL,
  content bytea NOT NULL,               -- zstd
  checksum bytea NOT NULL,              -- 16 bytes, of all of the row
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch, fingerprint, size)
);

-- The last lease of a session. It stays when it has ended, so that its number is never given again.
CREATE TABLE {schema}.lease (
  bucket smallint NOT NULL,
  session bigint NOT NULL,
  number bigint NOT NULL,               -- the token: grows with every lease
  nonce bytea NOT NULL,                 -- 16 random bytes; none for a session that begins above the tokens of another
  holder text,                          -- NULL once it was given back
  boot text NOT NULL,                   -- which clock `until` is of
  until bigint NOT NULL,                -- microseconds of that clock
  ttl bigint NOT NULL,                  -- microseconds
  taken bigint NOT NULL,                -- microseconds since 1970 UTC
  floor bigint NOT NULL,                -- the highest token on record that came from elsewhere: the next is above it too
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, session)
) WITH (fillfactor = 50);
CREATE INDEX lease_held ON {schema}.lease (until) WHERE holder IS NOT NULL;
