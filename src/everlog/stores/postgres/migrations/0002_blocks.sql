-- Cold bodies leave their rows: up to 64 of one branch in a zstd frame, and what is long and repeats once a bucket.
CREATE TABLE {schema}.dictionary (
  bucket smallint NOT NULL,             -- always 0
  digest bytea NOT NULL,                -- the first 16 bytes of the content's SHA-256
  kind text COLLATE "C" NOT NULL,       -- of event
  made bigint NOT NULL,
  content bytea NOT NULL,               -- zstd's
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant, digest)
);

-- A file in object storage that holds blocks. The row is there before the bytes and goes after them.
CREATE TABLE {schema}.object (
  bucket smallint NOT NULL,
  id bytea NOT NULL,                    -- 16 random bytes
  url text NOT NULL,                    -- of the place that it lies in, without credentials
  name text NOT NULL,                   -- below the url
  size bigint NOT NULL,
  checksum bytea NOT NULL,              -- SHA-256
  state text NOT NULL,                  -- writing, kept, tainted, leaving
  made bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, id)
);

-- A block of bodies, or one string or attachment that is kept once.
CREATE TABLE {schema}.block (
  bucket smallint NOT NULL,
  block bigint NOT NULL,
  branch bigint,                        -- whose own events they are; NULL for what is kept once
  start bigint NOT NULL,                -- positions [start, stop)
  stop bigint NOT NULL,
  digest bytea,                         -- SHA-256 of what is kept once; NULL for a block of bodies
  kind text COLLATE "C",                -- of event, that most bytes are of
  newest bigint NOT NULL,               -- time of the last event in it, or that held it when it was packed
  dictionary bytea,                     -- digest
  plain bigint NOT NULL,                -- bytes that it gives back
  size bigint NOT NULL,                 -- bytes of its content
  checksum bytea NOT NULL,              -- SHA-256 of its content
  object bytea,                         -- where its content is, once archived
  place bigint,                         -- where in the object it begins
  content bytea,                        -- NULL once archived
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, block)
);
ALTER TABLE {schema}.block ALTER COLUMN content SET STORAGE EXTERNAL; -- it is compressed
CREATE UNIQUE INDEX block_place ON {schema}.block (bucket, branch, start) WHERE branch IS NOT NULL;
CREATE UNIQUE INDEX block_digest ON {schema}.block (bucket, tenant, digest) WHERE digest IS NOT NULL;
CREATE INDEX block_object ON {schema}.block (bucket, object) WHERE object IS NOT NULL;

-- Which events hold what is kept once.
CREATE TABLE {schema}.sharing (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  position bigint NOT NULL,
  digest bytea NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch, position, digest)
);
CREATE INDEX sharing_digest ON {schema}.sharing (bucket, digest);

ALTER TABLE {schema}.branch ADD COLUMN packed bigint; -- own events below this position are packed; NULL for none
ALTER TABLE {schema}.attachment ADD COLUMN digest bytea; -- of the content, where it is kept once

-- An erasure looks for the summaries that stand for what goes, wherever they are.
CREATE INDEX event_summary ON {schema}.event (bucket, branch, position) WHERE type = 'summary';
