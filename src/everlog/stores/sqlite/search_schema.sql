-- The truth about the file beside a store in SQLite that an index for searching stands in. It can be removed: it is made anew.

-- One row: of which store this is, and how far it came.
CREATE TABLE state (
  store BLOB NOT NULL,              -- its id
  number INTEGER NOT NULL,          -- feed number of the last event in the index; 0 for none
  leaf BLOB,                        -- of that event
  erasures INTEGER NOT NULL         -- of the store's erasures and deletions, those that are carried out here
);

-- An event, as far as a search narrows by it.
CREATE TABLE entry (
  feed INTEGER PRIMARY KEY,
  branch INTEGER NOT NULL,
  position INTEGER NOT NULL,
  type TEXT NOT NULL,
  actor TEXT,
  outcome TEXT,
  recorded INTEGER NOT NULL,
  words INTEGER NOT NULL            -- 0: it has none; 1: they are in the table of words; 2: they are to be read in the store
);
CREATE INDEX entry_branch ON entry (branch);
CREATE INDEX entry_type ON entry (type);
CREATE INDEX entry_actor ON entry (actor) WHERE actor IS NOT NULL;
CREATE INDEX entry_outcome ON entry (outcome) WHERE outcome IS NOT NULL;
CREATE INDEX entry_unread ON entry (feed) WHERE words = 2;

-- What events say, folded: which of them hold which three characters, and nothing more. What leaves is overwritten at once.
CREATE VIRTUAL TABLE word USING fts5(text, content = '', columnsize = 0, detail = none, tokenize = 'trigram case_sensitive 1');
INSERT INTO word (word, rank) VALUES ('secure-delete', 1);
