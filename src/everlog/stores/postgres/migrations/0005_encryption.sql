-- Bodies may be encrypted: each under a data key of its own, which is kept here, wrapped with a key that the store does not hold.

-- Which keys wrap data keys. Every bucket has the same, so that a transaction of one asks that one.
CREATE TABLE {schema}.wrapping_key (
  bucket smallint NOT NULL,
  id bytea NOT NULL,                    -- 16 bytes, made from the key
  made bigint NOT NULL,
  retired bigint,                       -- NULL for the one that new data keys are wrapped with
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant, id)
);

-- The key of an event's body and attachments. Without its row they cannot be read, wherever a copy of them lies.
CREATE TABLE {schema}.data_key (
  bucket smallint NOT NULL,
  branch bigint NOT NULL,
  position bigint NOT NULL,
  wrapping bytea NOT NULL,              -- which key wraps it
  wrapped bytea NOT NULL,               -- 12 bytes of nonce, and AES-256-GCM of the key
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, branch, position)
);
