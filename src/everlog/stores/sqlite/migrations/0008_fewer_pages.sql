-- An append writes three pages instead of five.

-- Rows of events never go, so that a bare rowid is never used again: no table needs to remember the highest.
-- Nothing that is stored changes, so the statement alone is edited (sqlite.org/lang_altertable.html#otheralter).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'feed INTEGER PRIMARY KEY AUTOINCREMENT', 'feed INTEGER PRIMARY KEY')
WHERE type = 'table' AND name = 'event';
PRAGMA writable_schema = RESET;
DELETE FROM sqlite_sequence WHERE name = 'event';

-- Listings find the last changed by the second, and sort within it: the index is written to once a second.
ALTER TABLE branch ADD COLUMN second INTEGER NOT NULL DEFAULT 0; -- of `recorded`, rounded up: 0 for no event alone; kept by the triggers
UPDATE branch SET second = (recorded + 999999) / 1000000;
DROP INDEX branch_recorded;
CREATE INDEX branch_second ON branch (second);
CREATE TRIGGER branch_made AFTER INSERT ON branch
BEGIN
  UPDATE branch SET second = (new.recorded + 999999) / 1000000 WHERE branch = new.branch;
END;
CREATE TRIGGER branch_grown AFTER UPDATE OF recorded ON branch WHEN (new.recorded + 999999) / 1000000 <> new.second
BEGIN
  UPDATE branch SET second = (new.recorded + 999999) / 1000000 WHERE branch = new.branch;
END;
