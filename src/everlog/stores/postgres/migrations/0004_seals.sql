-- The ledger becomes a tree: records have places in it, and seals say its size and root. One tree a tenant, all of it in bucket 0.

-- Records without a place yet. Those from before the tree had any are found in the ledger.
CREATE TABLE {schema}.pending (
  bucket smallint NOT NULL,
  entry bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, entry)
);

-- A record's place in the ledger's tree.
CREATE TABLE {schema}.placed (
  bucket smallint NOT NULL,             -- always 0
  place bigint NOT NULL,
  entry bigint,                         -- whose record it is; NULL for what the sealer added
  record bytea NOT NULL,
  branch bytea,                         -- 16 bytes, of a record of a branch's head
  size bigint,                          -- that it says
  leaf bytea NOT NULL,
  nodes bytea NOT NULL,                 -- that this leaf completes, lowest level first
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant, place)
);
CREATE INDEX placed_branch ON {schema}.placed (bucket, tenant, branch, size) WHERE branch IS NOT NULL;

-- The ledger's tree, once anything has a place.
CREATE TABLE {schema}.tree (
  bucket smallint NOT NULL,             -- always 0
  size bigint NOT NULL,
  peaks bytea NOT NULL,                 -- 32 bytes each, largest first
  feeds text NOT NULL,                  -- JSON [[bucket, feed], ...]: of the last events whose branches' heads are in the tree
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant)
);

-- A signed checkpoint of the ledger's tree.
CREATE TABLE {schema}.seal (
  bucket smallint NOT NULL,             -- always 0
  digest bytea NOT NULL,                -- SHA-256 of the note
  origin text NOT NULL,
  size bigint NOT NULL,
  made bigint NOT NULL,
  note bytea NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant, digest)
);
CREATE INDEX seal_size ON {schema}.seal (bucket, tenant, size);
