-- What a search narrows by: a projection, filled from the feed by who searches. Both tables can be emptied together.

-- An event. trigrams: 16 bits of the hash of each three characters that it says, sorted; NULL where its words are to be read in the
-- event. Half of an array of integers, and a third of a tsvector (2026-11); two in 65,536 that are taken for one another cost a look.
CREATE TABLE {schema}.search_entry (
  bucket smallint NOT NULL,
  feed bigint NOT NULL,
  branch bigint NOT NULL,
  position bigint NOT NULL,
  type text COLLATE "C" NOT NULL,
  actor text COLLATE "C",
  outcome text COLLATE "C",
  recorded bigint NOT NULL,
  trigrams smallint[],
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, feed)
);
CREATE INDEX search_entry_trigrams ON {schema}.search_entry USING gin (trigrams);
CREATE INDEX search_entry_unread ON {schema}.search_entry (bucket, feed) WHERE trigrams IS NULL;
CREATE INDEX search_entry_branch ON {schema}.search_entry (bucket, branch, position);
CREATE INDEX search_entry_type ON {schema}.search_entry (bucket, type, feed);
CREATE INDEX search_entry_actor ON {schema}.search_entry (bucket, actor, feed) WHERE actor IS NOT NULL;
CREATE INDEX search_entry_outcome ON {schema}.search_entry (bucket, outcome, feed) WHERE outcome IS NOT NULL;

-- How far the index came in a bucket: number of the last event that was looked at.
CREATE TABLE {schema}.search_place (
  bucket smallint NOT NULL,
  feed bigint NOT NULL,
  tenant text COLLATE "C" NOT NULL DEFAULT coalesce(current_setting('everlog.tenant', true), ''),
  PRIMARY KEY (bucket, tenant)
);
