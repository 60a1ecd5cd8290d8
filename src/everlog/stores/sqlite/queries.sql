-- read_tip: the tip of a living session's current branch (session.id, branch primary key)
SELECT s.session, s.name, b.branch, b.id, b.writer, b.size, b.peaks, b.leaf, b.recorded, f.key_salt
FROM session AS s
JOIN branch AS b ON b.branch = s.current
JOIN family AS f ON f.family = s.family
WHERE s.id = :id AND s.deleted IS NULL;

-- read_found: a living session by its name, with its current branch and its lease (session.name, primary keys)
SELECT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt,
  b.branch, b.id, b.session, b.number, b.writer, b.base, b.base_size, b.size, b.peaks, b.leaf, b.recorded, b.created,
  l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM session AS s
JOIN family AS f ON f.family = s.family
JOIN branch AS b ON b.branch = s.current
LEFT JOIN lease AS l ON l.session = s.session
WHERE s.name = :name;

-- read_session_by_id: a living session (session.id)
SELECT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt
FROM session AS s
JOIN family AS f ON f.family = s.family
WHERE s.id = :id AND s.deleted IS NULL;

-- read_session: a living session by its name (session.name)
SELECT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt
FROM session AS s
JOIN family AS f ON f.family = s.family
WHERE s.name = :name AND s.deleted IS NULL;

-- read_branch: a branch as it is now (primary key)
SELECT branch, id, session, number, writer, base, base_size, size, peaks, leaf, recorded, created
FROM branch
WHERE branch = :branch;

-- read_current_branch: the current branch of a living session (session.id, branch primary key)
SELECT b.branch, b.id, b.session, b.number, b.writer, b.base, b.base_size, b.size, b.peaks, b.leaf, b.recorded, b.created
FROM session AS s
JOIN branch AS b ON b.branch = s.current
WHERE s.id = :id AND s.deleted IS NULL;

-- read_branch_by_id: a branch by its 16 bytes (branch.id)
SELECT branch, id, session, number, writer, base, base_size, size, peaks, leaf, recorded, created
FROM branch
WHERE id = :id;

-- read_branches: a session's branches (branch_number)
SELECT branch, id, session, number, writer, base, base_size, size, peaks, leaf, recorded, created
FROM branch
WHERE session = :session
ORDER BY number;

-- list_owned: the branches of sessions, by their keys (branch_number)
SELECT b.branch FROM json_each(:sessions) AS j CROSS JOIN branch AS b ON b.session = j.value;

-- read_chain: a branch and its bases, the branch first (primary key)
WITH RECURSIVE chain (branch, id, writer, base, base_size, depth) AS (
  SELECT branch, id, writer, base, base_size, 0 FROM branch WHERE branch = :branch
  UNION ALL
  SELECT b.branch, b.id, b.writer, b.base, b.base_size, chain.depth + 1
  FROM chain
  JOIN branch AS b ON b.branch = chain.base
)
SELECT branch, id, writer, base_size FROM chain ORDER BY depth;

-- read_keyed: an event by its idempotency key in a range of one branch (event_key)
-- Named, since the planner would walk the range of positions instead: 5 ms a key at 30,000 events (measured).
SELECT position, key_count
FROM event INDEXED BY event_key
WHERE branch = :branch AND key = :key AND position >= :start AND position < :stop;

-- read_rows: whole rows of one branch's own events (event_position)
SELECT position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone, attached,
  commitments, leaf, nodes, salt, body
FROM event
WHERE branch = :branch AND position >= :start AND position < :stop
ORDER BY position;

-- read_leaf: leaf, nodes and time of one event, what became of its body, and its commitments (event_position)
SELECT leaf, nodes, recorded, gone, commitments
FROM event
WHERE branch = :branch AND position = :position;

-- read_leaves: the leaves of a range of one branch's own events (event_position)
SELECT leaf FROM event WHERE branch = :branch AND position >= :start AND position < :stop ORDER BY position;

-- read_attachments: an event's attachments, in order, with its leaf (attachment_number, event_position)
SELECT name, size, salt, content, digest,
  (SELECT leaf FROM event AS e WHERE e.branch = attachment.branch AND e.position = attachment.position)
FROM attachment
WHERE branch = :branch AND position = :position
ORDER BY number;

-- read_feed: events of all sessions after a feed number (primary key)
SELECT e.feed, e.branch, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key, e.gone,
  e.attached, e.leaf, e.body
FROM event AS e
WHERE e.feed > :after
ORDER BY e.feed
LIMIT :limit;

-- read_feed_rows: single events by feed number, in the order given (primary key)
SELECT e.feed, e.branch, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key, e.gone,
  e.attached, e.leaf, e.body
FROM json_each(:feeds) AS j
CROSS JOIN event AS e ON e.feed = j.value;

-- read_feed_branch: what an event of the feed is read through (primary keys)
SELECT b.id, b.writer, s.name
FROM branch AS b
JOIN session AS s ON s.session = b.session
WHERE b.branch = :branch;

-- read_feed_leaf: the leaf at a feed number (primary key)
SELECT leaf FROM event WHERE feed = :feed;

-- read_feed_end: the last event recorded (primary key)
SELECT feed, leaf FROM event ORDER BY feed DESC LIMIT 1;

-- read_named: events of living sessions by idempotency key, newest first (event_named)
SELECT b.id, b.writer, s.name, e.branch, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred, e.cause, e.key,
  e.gone, e.attached, e.leaf, e.body
FROM event AS e
JOIN branch AS b ON b.branch = e.branch
JOIN session AS s ON s.session = b.session
WHERE e.key = :key AND s.deleted IS NULL
ORDER BY e.feed DESC
LIMIT :limit;

-- read_forks: living sessions that share events owned by a session's branches (branch_base)
SELECT DISTINCT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id,
  f.key_salt
FROM branch AS own
JOIN branch AS fork ON fork.base = own.branch
JOIN session AS s ON s.session = fork.session
JOIN family AS f ON f.family = s.family
WHERE own.session = :session AND s.session <> :session AND s.deleted IS NULL;

-- read_name: whether a name is taken (session.name)
SELECT 1 FROM session WHERE name = :name;

-- read_family: a family by its 16 bytes (family.id)
SELECT family FROM family WHERE id = :id;

-- insert_family: a new family
INSERT INTO family (id, key_salt) VALUES (:id, :key_salt) RETURNING family;

-- insert_session: a new session, without a current branch
INSERT INTO session (id, family, name, title, labels, metadata, parent, salt, created)
VALUES (:id, :family, :name, :title, :labels, :metadata, :parent, :salt, :created)
RETURNING session;

-- insert_label: one label of a session, for listing
INSERT INTO label (name, value, session) VALUES (:name, :value, :session);

-- read_labels: the labels of a session, as JSON (primary key)
SELECT labels FROM session WHERE session = :session;

-- delete_labels: the labels of a session, before new ones (label is found by the session's own list of them)
DELETE FROM label WHERE name = :name AND value = :value AND session = :session;

-- insert_branch: a new branch, numbered within its session
INSERT INTO branch (id, session, number, writer, base, base_size, size, recorded, leaf, peaks, created)
VALUES (:id, :session, (SELECT coalesce(max(number), 0) + 1 FROM branch WHERE session = :session), :writer, :base,
  :base_size, :size, :recorded, :leaf, :peaks, :created)
RETURNING branch;

-- set_current: make a branch current
UPDATE session SET current = :branch WHERE session = :session;

-- read_session_sums: what the checksums of sessions are made of, and they themselves
SELECT s.session, s.checksum, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.salt, s.created,
  s.deleted, f.id, f.key_salt, (SELECT id FROM store)
FROM session AS s
LEFT JOIN family AS f ON f.family = s.family;

-- read_session_sum: what the checksum of one session is made of (primary keys)
SELECT s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.salt, s.created,
  s.deleted, f.id, f.key_salt, (SELECT id FROM store)
FROM session AS s
LEFT JOIN family AS f ON f.family = s.family
WHERE s.session = :session;

-- set_session_checksum: after a change of its row
UPDATE session SET checksum = :checksum WHERE session = :session;

-- read_branch_sums: what the checksums of branches are made of, and they themselves
SELECT branch, checksum, id, session, number, writer, base, base_size, created FROM branch;

-- read_branch_sum: what the checksum of one branch is made of (primary key)
SELECT id, session, number, writer, base, base_size, created FROM branch WHERE branch = :branch;

-- set_branch_checksum: after it was made
UPDATE branch SET checksum = :checksum WHERE branch = :branch;

-- read_label_damage: labels that stand in one of their two places only
SELECT l.name, l.value, l.session
FROM label AS l
WHERE NOT EXISTS (
  SELECT 1 FROM session AS s, json_each(s.labels) AS j
  WHERE s.session = l.session AND j.key = l.name AND j.value = l.value
)
UNION ALL
SELECT j.key, j.value, s.session
FROM session AS s, json_each(s.labels) AS j
WHERE NOT EXISTS (SELECT 1 FROM label AS l WHERE l.name = j.key AND l.value = j.value AND l.session = s.session);

-- check_integrity: tables, indexes and pages against one another; "ok" or what is wrong
PRAGMA integrity_check(100);

-- set_names: what a session is called
UPDATE session SET title = :title, labels = :labels, metadata = :metadata WHERE session = :session;

-- insert_event: one event at the end of a branch
INSERT INTO event (branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers,
  gone, attached, commitments, leaf, nodes, salt, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- set_tip: the state of a branch after its last event
UPDATE branch SET size = ?, recorded = ?, leaf = ?, peaks = ? WHERE branch = ?;

-- read_current_key: which key data keys are wrapped with (the table: a row or two)
SELECT id FROM wrapping_key WHERE retired IS NULL;

-- read_wrapping_keys: keys that data keys are wrapped with, the current one first (the table: a row or two)
SELECT id, made, retired FROM wrapping_key ORDER BY retired IS NOT NULL, retired DESC;

-- insert_wrapping_key: a key, or one that was retired, as the current one (primary key)
INSERT INTO wrapping_key (id, made) VALUES (:id, :made) ON CONFLICT (id) DO UPDATE SET retired = NULL;

-- retire_wrapping_keys: all but one (the table)
UPDATE wrapping_key SET retired = coalesce(retired, :now) WHERE id <> :id;

-- forget_wrapping_key: a retired key that no data key needs (the table of data keys)
DELETE FROM wrapping_key
WHERE id = :id AND retired IS NOT NULL AND NOT EXISTS (SELECT 1 FROM data_key WHERE wrapping = :id);

-- insert_data_key: the key of an event's body and attachments
INSERT INTO data_key (branch, position, wrapping, wrapped) VALUES (?, ?, ?, ?);

-- read_data_keys: the keys of a range of a branch's own events (primary key)
SELECT position, wrapping, wrapped FROM data_key WHERE branch = :branch AND position >= :start AND position < :stop;

-- list_data_keys: those that one key wraps, page by page (primary key)
SELECT branch, position, wrapped
FROM data_key
WHERE (branch, position) > (:branch, :position) AND wrapping = :wrapping
ORDER BY branch, position
LIMIT :limit;

-- count_plain: events in plain text where the store encrypts: every other that is there has a key; walks the tables, on purpose
SELECT CASE WHEN EXISTS (SELECT 1 FROM wrapping_key)
  THEN (SELECT count(*) FROM event WHERE gone IS NULL) - (SELECT count(*) FROM data_key)
  ELSE 0 END;

-- rewrap_data_key: wrapped with another key, if it is still there (primary key)
UPDATE data_key SET wrapping = :wrapping, wrapped = :wrapped
WHERE branch = :branch AND position = :position AND wrapping = :retired;

-- seal_event: a body that is encrypted from now on (event_position)
UPDATE event SET body = :body, salt = NULL, commitments = :commitments WHERE branch = :branch AND position = :position;

-- seal_attachment: an attachment that is encrypted from now on, and no more kept once (attachment_number)
UPDATE attachment SET content = :content, salt = NULL, digest = NULL
WHERE branch = :branch AND position = :position AND number = :number;

-- destroy_data_keys: of a range of a branch's own events (primary key)
DELETE FROM data_key WHERE branch = :branch AND position >= :start AND position < :stop;

-- insert_attachment: an attachment of an event
INSERT INTO attachment (branch, position, number, name, size, salt, content)
VALUES (:branch, :position, :number, :name, :size, :salt, :content);

-- erase_event: destroy a body, its salt and the names of its attachments (event_position)
UPDATE event
SET body = NULL, salt = NULL, attached = NULL, gone = 1, commitments = coalesce(commitments, :commitments)
WHERE branch = :branch AND position = :position;

-- erase_attachments: destroy attachments, their names and salts (attachment_number)
DELETE FROM attachment WHERE branch = :branch AND position = :position;

-- end_session: destroy what a session is called
UPDATE session
SET name = NULL, title = NULL, labels = '{}', metadata = NULL, parent = NULL, salt = x'', deleted = :deleted
WHERE session = :session;

-- begin_sweep: mark the branches of a deleted session for destruction of their own events
UPDATE branch SET swept = base_size WHERE session = :session;

-- read_sweep: a branch whose own events are to be destroyed (branch_swept)
SELECT branch, swept, size FROM branch WHERE swept IS NOT NULL AND swept < size LIMIT 1;

-- sweep_events: destroy all but leaf and nodes of a range of a branch's own events (event_position)
UPDATE event
SET type = NULL, actor = NULL, outcome = NULL, recorded = NULL, occurred = NULL, cause = NULL, key = NULL,
  key_count = NULL, key_hash = NULL, covers = NULL, gone = 3, attached = NULL, commitments = NULL, salt = NULL, body = NULL
WHERE branch = :branch AND position >= :start AND position < :stop;

-- sweep_attachments: destroy the attachments of a range of a branch's own events (attachment_number)
DELETE FROM attachment WHERE branch = :branch AND position >= :start AND position < :stop;

-- set_swept: how far a branch's own events are destroyed
UPDATE branch SET swept = :swept WHERE branch = :branch;

-- end_sweep: branches whose own events are all destroyed need no more of it (branch_swept)
UPDATE branch SET swept = NULL WHERE swept IS NOT NULL AND swept >= size;

-- insert_ledger: a pending record
INSERT INTO ledger (record, reason) VALUES (:record, :reason) RETURNING entry;

-- insert_erasure: that a record says of an event that its body was destroyed
INSERT INTO erasure (leaf, entry) VALUES (:leaf, :entry) ON CONFLICT (leaf) DO NOTHING;

-- read_erasure: the record that says that an event's body was destroyed (primary keys)
SELECT l.entry, l.record, l.reason
FROM erasure AS e
JOIN ledger AS l ON l.entry = e.entry
WHERE e.leaf = :leaf;

-- read_session_of: the living session that owns a branch (primary keys)
SELECT s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt
FROM branch AS b
JOIN session AS s ON s.session = b.session
JOIN family AS f ON f.family = s.family
WHERE b.branch = :branch AND s.deleted IS NULL;

-- read_ledger: pending records by number (primary key)
SELECT entry, record, reason FROM ledger WHERE entry > :after ORDER BY entry LIMIT :limit;

-- set_traces: whether destroyed bytes may still stand in the write-ahead log
UPDATE store SET traces = :traces;

-- read_traces: whether a deletion or erasure is unfinished (branch_swept)
SELECT 1 FROM store WHERE traces <> 0 UNION ALL SELECT 1 FROM branch WHERE swept IS NOT NULL LIMIT 1;

-- read_store: the store itself
SELECT id FROM store;

-- truncate_wal: copy the write-ahead log into the file and empty it; gives busy, its pages, pages copied
PRAGMA wal_checkpoint(TRUNCATE);

-- read_erasures: the number that every erasure and deletion raises
SELECT erasures FROM store;

-- raise_erasures: after an erasure or a deletion
UPDATE store SET erasures = erasures + 1;

-- read_snapshot: the newest snapshot of a range of cuts of one branch (snapshot_place)
SELECT branch, size, reducer, version, fingerprint, base_branch, base_size, depth, plain, notes, taken, content, checksum
FROM snapshot
WHERE branch = :branch AND fingerprint = :fingerprint AND size > :start AND size <= :stop
ORDER BY size DESC
LIMIT 1;

-- list_snapshots: snapshots of all branches, without contents, page by page (snapshot_place)
SELECT branch, size, reducer, version, fingerprint, base_branch, base_size, depth, plain, notes, taken, length(content),
  checksum
FROM snapshot
WHERE (branch, fingerprint, size) > (:branch, :fingerprint, :size)
ORDER BY branch, fingerprint, size
LIMIT :limit;

-- list_branch_snapshots: snapshots of one branch, without contents, page by page (snapshot_place)
SELECT branch, size, reducer, version, fingerprint, base_branch, base_size, depth, plain, notes, taken, length(content),
  checksum
FROM snapshot
WHERE branch = :branch AND (fingerprint, size) > (:fingerprint, :size)
ORDER BY fingerprint, size
LIMIT :limit;

-- put_snapshot: a snapshot, in the place of an earlier one there
INSERT OR REPLACE INTO snapshot (branch, size, reducer, version, fingerprint, base_branch, base_size, depth, plain, notes,
  taken, content, checksum)
VALUES (:branch, :size, :reducer, :version, :fingerprint, :base_branch, :base_size, :depth, :plain, :notes, :taken,
  :content, :checksum);

-- drop_snapshots: of all branches, of one reducer or all: walks the table, on purpose
DELETE FROM snapshot WHERE :reducer IS NULL OR reducer = :reducer;

-- drop_branch_snapshots: of one branch, of one reducer or all (snapshot_place)
DELETE FROM snapshot WHERE branch = :branch AND (:reducer IS NULL OR reducer = :reducer);

-- erase_snapshots: of states that an event went into, on its own branch and those that share it (snapshot_place)
WITH RECURSIVE chain (branch) AS (
  SELECT :branch
  UNION ALL
  SELECT b.branch FROM chain JOIN branch AS b ON b.base = chain.branch AND b.base_size > :position
)
DELETE FROM snapshot WHERE branch IN (SELECT branch FROM chain) AND size > :position;

-- end_snapshots: of a session's branches (branch_number)
DELETE FROM snapshot WHERE branch IN (SELECT branch FROM branch WHERE session = :session);

-- read_lease: the last lease of a living session (session.id, lease primary key)
SELECT l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM session AS s
JOIN lease AS l ON l.session = s.session
WHERE s.id = :id AND s.deleted IS NULL;

-- read_leases: the leases that live, the last taken first (lease_held)
SELECT
  s.session, s.id, s.name, s.title, s.labels, s.metadata, s.current, s.parent, s.created, s.salt, f.id, f.key_salt,
  l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM lease AS l
JOIN session AS s ON s.session = l.session
JOIN family AS f ON f.family = s.family
WHERE l.holder IS NOT NULL AND l.boot = :boot AND l.until > :now
ORDER BY l.taken DESC
LIMIT :limit;

-- set_lease: a session's lease, in the place of its last (primary key)
INSERT INTO lease (session, number, nonce, holder, boot, until, ttl, taken, floor, checksum)
VALUES (:session, :number, :nonce, :holder, :boot, :until, :ttl, :taken, :floor, :checksum)
ON CONFLICT (session) DO UPDATE SET
  number = excluded.number,
  nonce = excluded.nonce,
  holder = excluded.holder,
  boot = excluded.boot,
  until = excluded.until,
  ttl = excluded.ttl,
  taken = excluded.taken,
  floor = excluded.floor,
  checksum = excluded.checksum;

-- end_lease: a deleted session has none (primary key)
DELETE FROM lease WHERE session = :session;

-- read_lease_sums: every lease with its checksum (the table)
SELECT checksum, session, number, nonce, holder, boot, until, ttl, taken, floor FROM lease;

-- list_cold: branches of living sessions with own events that are not packed, by key (the table of branches)
SELECT b.branch, coalesce(b.packed, b.base_size), b.size, b.recorded
FROM branch AS b
JOIN session AS s ON s.session = b.session
WHERE b.branch > :after AND b.size > coalesce(b.packed, b.base_size) AND s.deleted IS NULL
ORDER BY b.branch
LIMIT :limit;

-- read_packed: how far a branch's own events are packed, of a living session (primary keys)
SELECT coalesce(b.packed, b.base_size), b.size
FROM branch AS b
JOIN session AS s ON s.session = b.session
WHERE b.branch = :branch AND s.deleted IS NULL;

-- set_packed: how far a branch's own events are packed (primary key)
UPDATE branch SET packed = :packed WHERE branch = :branch;

-- insert_block: a block of bodies, or what is kept once and was not there yet
INSERT INTO block (branch, start, stop, digest, kind, newest, dictionary, plain, size, checksum, content)
VALUES (:branch, :start, :stop, :digest, :kind, :newest, :dictionary, :plain, :size, :checksum, :content)
ON CONFLICT (digest) WHERE digest IS NOT NULL DO UPDATE SET newest = max(newest, excluded.newest);

-- read_range: rows of a branch's own events, in the order of the feed, those with bodies without them (event_position)
SELECT feed, branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone,
  attached, commitments, leaf, nodes, salt IS NOT NULL
FROM event
WHERE branch = :branch AND position >= :start AND position < :stop AND body IS NOT NULL
ORDER BY feed;

-- read_broken_leaves: positions of a branch's own events whose leaves are damaged (event_position)
SELECT position
FROM event
WHERE branch = :branch AND position >= :start AND position < :stop AND typeof(leaf) <> 'blob';

-- delete_range: rows that are written again (event_position)
DELETE FROM event WHERE branch = :branch AND position >= :start AND position < :stop AND body IS NOT NULL;

-- insert_range: a row in its place in the feed, without its body
-- Not an UPDATE: SQLite leaves a page whose rows have shrunk as it is, nine tenths empty (measured); a page that rows are deleted
-- from is merged with others.
INSERT INTO event (feed, branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers,
  gone, attached, commitments, leaf, nodes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- empty_attachment: take an attachment that is kept once out of its row (attachment_number)
UPDATE attachment SET content = NULL, digest = :digest
WHERE branch = :branch AND position = :position AND number = :number;

-- insert_sharing: that an event holds something that is kept once
INSERT INTO sharing (branch, position, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- insert_dictionary: a dictionary; one that is there has the same content, or was damaged
INSERT INTO dictionary (digest, kind, made, content)
VALUES (:digest, :kind, :made, :content)
ON CONFLICT (digest) DO UPDATE SET content = excluded.content;

-- read_dictionaries: the newest dictionary of each kind (the table: a few rows)
SELECT digest, kind, max(made), content FROM dictionary GROUP BY kind;

-- read_dictionary_sums: every dictionary (the table: a few rows)
SELECT digest, kind, content FROM dictionary;

-- read_block_sums: every block in the store itself, with the session whose events it holds, NULL for what is kept once (the table)
SELECT s.name, b.start, b.stop, b.digest, b.checksum, b.content
FROM block AS b
LEFT JOIN branch AS own ON own.branch = b.branch
LEFT JOIN session AS s ON s.session = own.session
WHERE b.object IS NULL
ORDER BY b.block;

-- read_holders: events that hold what is kept once (sharing_digest)
SELECT s.name, h.position
FROM sharing AS h
JOIN branch AS own ON own.branch = h.branch
JOIN session AS s ON s.session = own.session
WHERE h.digest = :digest
ORDER BY h.branch, h.position
LIMIT 5;

-- read_places: where archived blocks are (the table of objects)
SELECT url, count(*), sum(size) FROM object GROUP BY url ORDER BY url;

-- read_dictionary: a dictionary (primary key)
SELECT content FROM dictionary WHERE digest = :digest;

-- read_block_at: the block that may hold the body of an event (block_place)
SELECT block, branch, start, stop, newest, dictionary, plain, size, checksum, object, place, content
FROM block
WHERE branch = :branch AND start <= :position
ORDER BY start DESC
LIMIT 1;

-- read_blocks_between: the blocks of a branch's own events that lie in a range (block_place)
SELECT block, branch, start, stop, newest, dictionary, plain, size, checksum, object, place, content
FROM block
WHERE branch = :branch AND start >= :start AND start < :stop
ORDER BY start;

-- read_shared: what is kept once (block_digest)
SELECT block, branch, start, stop, newest, dictionary, plain, size, checksum, object, place, content
FROM block
WHERE digest = :digest;

-- read_block: a block's content, if it is what it was (primary key)
SELECT content FROM block WHERE block = :block AND checksum = :checksum;

-- list_blocks: blocks in the store itself, by key (primary key)
SELECT block, branch, start, stop, newest, dictionary, plain, size, checksum, object, place
FROM block
WHERE block > :after AND object IS NULL AND newest < :newest
ORDER BY block
LIMIT :limit;

-- list_session_blocks: blocks of a session's events in the store itself, by key (branch_number, block_place)
SELECT b.block, b.branch, b.start, b.stop, b.newest, b.dictionary, b.plain, b.size, b.checksum, b.object, b.place
FROM branch AS own
CROSS JOIN block AS b ON b.branch = own.branch
WHERE own.session = :session AND b.block > :after AND b.object IS NULL AND b.newest < :newest
ORDER BY b.block
LIMIT :limit;

-- list_object_blocks: the blocks of an object, in the order of their places (block_object)
SELECT block, branch, start, stop, newest, dictionary, plain, size, checksum, object, place
FROM block
WHERE object = :object
ORDER BY place;

-- list_objects: every object, by id (the table)
SELECT id, 0, url, name, size, checksum, state, made FROM object ORDER BY id;

-- list_session_objects: objects that hold what a session's lines need (branch_number, primary keys, block_place, block_digest)
WITH RECURSIVE line (branch, stop) AS (
  SELECT branch, size FROM branch WHERE session = :session
  UNION
  SELECT own.base, own.base_size FROM line CROSS JOIN branch AS own ON own.branch = line.branch WHERE own.base IS NOT NULL
)
SELECT id, 0, url, name, size, checksum, state, made
FROM object
WHERE id IN (
  SELECT b.object FROM line CROSS JOIN block AS b ON b.branch = line.branch AND b.start < line.stop
  UNION
  SELECT b.object
  FROM line
  CROSS JOIN sharing AS s ON s.branch = line.branch AND s.position < line.stop
  CROSS JOIN block AS b ON b.digest = s.digest
)
ORDER BY id;

-- read_object: an object (primary key)
SELECT id, 0, url, name, size, checksum, state, made FROM object WHERE id = :id;

-- insert_object: an object that is about to be written
INSERT INTO object (id, url, name, size, checksum, state, made)
VALUES (:id, :url, :name, :size, :checksum, :state, :made);

-- set_object: what becomes of an object (primary key)
UPDATE object SET state = :state WHERE id = :id;

-- give_up_object: an object that nobody finished writing is one that nothing is in (primary key)
UPDATE object SET state = 'leaving' WHERE id = :id AND state = 'writing';

-- delete_object: an object whose bytes are gone (block_object)
DELETE FROM object WHERE id = :id AND NOT EXISTS (SELECT 1 FROM block WHERE object = :id);

-- read_leaving: a block without its content, which is in an object, if it is still what was written there (primary key)
SELECT block, branch, start, stop, digest, kind, newest, dictionary, plain, size, checksum, :object, :place
FROM block
WHERE block = :block AND checksum = :checksum AND content IS NOT NULL;

-- insert_archived: a block whose content is in an object; not an UPDATE: see insert_range
INSERT INTO block (block, branch, start, stop, digest, kind, newest, dictionary, plain, size, checksum, object, place)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- write_block: a block's content, in the place of what it was (primary key)
UPDATE block
SET plain = :plain, size = :size, checksum = :checksum, content = :content, object = NULL, place = NULL
WHERE block = :block;

-- delete_block: a block of which nothing is left (primary key)
DELETE FROM block WHERE block = :block;

-- read_removed: own events of a branch in a range, with what an index was made of (event_position)
SELECT feed, position, gone, leaf, body FROM event WHERE branch = :branch AND position >= :start AND position < :stop;

-- read_gone: own events of a branch in a range whose bodies were destroyed (event_position)
SELECT position FROM event WHERE branch = :branch AND position >= :start AND position < :stop AND gone IS NOT NULL;

-- end_sharing: that an event of a range holds what is kept once, no more (primary key)
DELETE FROM sharing WHERE branch = :branch AND position >= :start AND position < :stop RETURNING digest;

-- count_holders: what is kept once of these events, how many of them hold it, and how many events do at all
SELECT h.digest, count(*), (SELECT count(*) FROM sharing AS holder WHERE holder.digest = h.digest)
FROM json_each(:places) AS r
JOIN sharing AS h ON h.branch = r.value ->> 0 AND h.position = r.value ->> 1
GROUP BY h.digest;

-- is_shared: whether an event still holds what is kept once (sharing_digest)
SELECT 1 FROM sharing WHERE digest = :digest LIMIT 1;

-- read_sizes: what the store holds; walks the tables, on purpose
SELECT
  (SELECT count(*) FROM event),
  (SELECT count(*) FROM session WHERE deleted IS NULL),
  (SELECT coalesce(sum(length(body)), 0) FROM event) + (SELECT coalesce(sum(length(content)), 0) FROM attachment),
  (SELECT coalesce(sum(size), 0) FROM block WHERE branch IS NOT NULL AND object IS NULL),
  (SELECT coalesce(sum(plain), 0) FROM block WHERE branch IS NOT NULL),
  (SELECT coalesce(sum(size), 0) FROM block WHERE digest IS NOT NULL AND object IS NULL),
  (SELECT coalesce(sum(plain), 0) FROM block WHERE digest IS NOT NULL),
  (SELECT coalesce(sum(size), 0) FROM block WHERE object IS NOT NULL),
  (SELECT count(*) FROM block),
  (SELECT count(*) FROM object);

-- read_growth: what was recorded on each day, with the bodies that stand in rows; walks the table, on purpose
SELECT recorded / 86400000000, count(*), coalesce(sum(length(body)), 0)
FROM event
WHERE recorded IS NOT NULL
GROUP BY 1
ORDER BY 1;

-- read_packed_growth: what blocks give back, by the day of the last event in them; walks the table, on purpose
SELECT newest / 86400000000, sum(plain) FROM block WHERE branch IS NOT NULL GROUP BY 1;

-- read_tree: the ledger's tree; no row before its first record has a place
SELECT size, peaks, feed FROM tree;

-- insert_tree: the ledger's tree, where there is none yet
INSERT INTO tree (size, peaks, feed) SELECT 0, x'', 0 WHERE NOT EXISTS (SELECT 1 FROM tree);

-- set_tree: after records got their places
UPDATE tree SET size = :size, peaks = :peaks, feed = :feed;

-- read_pending: records without a place, by number: those behind the last that has one (its unique index, primary key)
SELECT entry, record, reason
FROM ledger
WHERE entry > coalesce((SELECT max(entry) FROM placed), 0)
ORDER BY entry
LIMIT :limit;

-- insert_placed: a record's place
INSERT INTO placed (place, entry, record, branch, size, leaf, nodes)
VALUES (:place, :entry, :record, :branch, :size, :leaf, :nodes);

-- read_placed: records by their places (primary keys)
SELECT p.entry, coalesce(p.record, l.record), p.leaf, p.nodes, p.branch, p.size
FROM placed AS p
LEFT JOIN ledger AS l ON l.entry = p.entry
WHERE p.place >= :start AND p.place < :stop
ORDER BY p.place;

-- read_placed_node: a leaf of the ledger's tree and the nodes that it completes (primary key)
SELECT leaf, nodes FROM placed WHERE place = :place;

-- read_head_place: the first record that says that a branch had a size, or a larger one (placed_branch)
SELECT place FROM placed WHERE branch = :branch AND size >= :size AND place < :below ORDER BY size, place LIMIT 1;

-- read_fed_branches: which branches events were added to, event by event (primary key)
SELECT feed, branch FROM event WHERE feed > :after ORDER BY feed LIMIT :limit;

-- read_branch_head: a branch of a living session by its ids, with its peaks (primary keys)
SELECT b.id, s.id, b.size, b.peaks, base.id, b.base_size
FROM branch AS b
JOIN session AS s ON s.session = b.session AND s.deleted IS NULL
LEFT JOIN branch AS base ON base.branch = b.base
WHERE b.branch = :branch;

-- insert_seal: a seal, which may be there (unique index of the digest)
INSERT INTO seal (origin, size, made, digest, note) VALUES (:origin, :size, :made, :digest, :note) ON CONFLICT (digest) DO NOTHING;

-- list_seals: seals of smaller trees, the largest first (seal_size)
SELECT origin, size, made, note FROM seal WHERE size < :before ORDER BY size DESC, seal DESC LIMIT :limit;

-- read_seal_sums: seals with the digests of their notes
SELECT size, digest, note FROM seal ORDER BY seal;
