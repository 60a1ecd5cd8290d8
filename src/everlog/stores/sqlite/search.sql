-- read_state: of which store this is, and how far it came
SELECT store, number, leaf, erasures FROM state;

-- make_state: an index with nothing in it
INSERT INTO state (store, number, leaf, erasures) VALUES (:store, 0, NULL, :erasures);

-- set_place: how far the index came
UPDATE state SET number = :number, leaf = :leaf;

-- add_erasures: so many more of the store's erasures and deletions are carried out here
UPDATE state SET erasures = erasures + :count;

-- insert_entry: an event
INSERT INTO entry (feed, branch, position, type, actor, outcome, recorded, words) VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- insert_words: what an event says
INSERT INTO word (rowid, text) VALUES (?, ?);

-- read_entry: whether an event's words are in the index (primary key)
SELECT words FROM entry WHERE feed = :feed;

-- delete_words: what an event said; the text must be what was inserted
INSERT INTO word (word, rowid, text) VALUES ('delete', :feed, :text);

-- empty_entry: an event that says nothing any more (primary key)
UPDATE entry SET words = 0 WHERE feed = :feed;

-- delete_entry: an event of a deleted session (primary key)
DELETE FROM entry WHERE feed = :feed;

-- truncate_wal: take what was overwritten out of the write-ahead log
PRAGMA wal_checkpoint(TRUNCATE);

-- list_types: every type of event, at most so many (entry_type)
WITH RECURSIVE found (value) AS (
  SELECT min(type) FROM entry
  UNION ALL
  SELECT (SELECT min(type) FROM entry WHERE type > found.value) FROM found WHERE found.value IS NOT NULL
  LIMIT :limit
)
SELECT value FROM found WHERE value IS NOT NULL;

-- list_actors: every actor, at most so many (entry_actor)
WITH RECURSIVE found (value) AS (
  SELECT min(actor) FROM entry WHERE actor IS NOT NULL
  UNION ALL
  SELECT (SELECT min(actor) FROM entry WHERE actor > found.value) FROM found WHERE found.value IS NOT NULL
  LIMIT :limit
)
SELECT value FROM found WHERE value IS NOT NULL;

-- list_outcomes: every outcome, at most so many (entry_outcome)
WITH RECURSIVE found (value) AS (
  SELECT min(outcome) FROM entry WHERE outcome IS NOT NULL
  UNION ALL
  SELECT (SELECT min(outcome) FROM entry WHERE outcome > found.value) FROM found WHERE found.value IS NOT NULL
  LIMIT :limit
)
SELECT value FROM found WHERE value IS NOT NULL;
