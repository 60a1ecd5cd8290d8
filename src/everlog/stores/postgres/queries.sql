-- read_version: the store itself
SELECT id, version, buckets FROM {schema}.store WHERE bucket = 0;

-- has_schema: whether there is a schema of this name
SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %(name)s;

-- make_schema: a schema of the store's own
CREATE SCHEMA {schema};

-- insert_store: the store itself
INSERT INTO {schema}.store (bucket, id, version, buckets, created) VALUES (0, %(id)s, %(version)s, %(buckets)s, %(created)s);

-- insert_buckets: counters, one for each bucket
INSERT INTO {schema}.bucket (bucket, feed, erasures) SELECT n, 0, 0 FROM generate_series(0, %(buckets)s - 1) AS n;

-- set_version: after a migration
UPDATE {schema}.store SET version = %(version)s WHERE bucket = 0;

-- begin: a transaction
BEGIN ISOLATION LEVEL READ COMMITTED;

-- limit_locks: how long a transaction waits for a row; and that statements are planned once, and not for every length of their arrays
SELECT set_config('lock_timeout', '10s', true), set_config('plan_cache_mode', 'force_generic_plan', true);

-- limit_locks_briefly: the same, of what was waited for already
SELECT set_config('lock_timeout', '100ms', true), set_config('plan_cache_mode', 'force_generic_plan', true);

-- sync_off: do not wait for the disk
SET LOCAL synchronous_commit = off;

-- sync_on: wait for the disk, where the server's own setting does not
SET LOCAL synchronous_commit = on;

-- set_tenant: whose rows are seen and made, until the end of the transaction
SELECT set_config('everlog.tenant', %(tenant)s, true);

-- keeps_tenants: whether the server keeps tenants apart, and from this role too
SELECT relrowsecurity AND relforcerowsecurity, row_security_active(oid) FROM pg_catalog.pg_class WHERE oid = to_regclass(%(name)s);

-- distribute: spread a table over the machines of Citus by bucket
SELECT create_distributed_table(%(table)s::regclass, 'bucket');

-- has_citus: whether the server is one of Citus
SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'citus';

-- commit: what was written
COMMIT;

-- roll_back: what was written
ROLLBACK;

-- read_clock: microseconds since 1970 UTC
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- lock_sessions: keep others from writing to living sessions until the end of the transaction, in one order for all
SELECT session FROM {schema}.session
WHERE bucket = %(bucket)s AND id = ANY(%(ids)s::bytea[]) AND deleted IS NULL
ORDER BY session FOR UPDATE;

-- lock_owners: the same for the sessions that own branches
SELECT session FROM {schema}.session
WHERE bucket = %(bucket)s AND session IN (
  SELECT session FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = ANY(%(branches)s::bigint[])
)
ORDER BY session FOR UPDATE;

-- lock_bucket: keep others from writing to a bucket until the end of the transaction
SELECT erasures FROM {schema}.bucket WHERE bucket = %(bucket)s FOR UPDATE;

-- read_tips: the tips of sessions' current branches, with their leases
SELECT s.session, s.id, s.name, t.branch, b.id, b.writer, t.size, t.peaks, t.leaf, t.recorded, s.key_salt,
  l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM {schema}.session AS s
JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
JOIN {schema}.tip AS t ON t.bucket = s.bucket AND t.branch = s.current
LEFT JOIN {schema}.lease AS l ON l.bucket = s.bucket AND l.session = s.session
WHERE s.bucket = %(bucket)s AND s.id = ANY(%(ids)s::bytea[]) AND s.deleted IS NULL;

-- read_keyed: which keys stand in the lineages of sessions' current branches, and where; OFFSET has each looked up by its index
WITH RECURSIVE chain (id, branch, base, base_size, stop) AS (
  SELECT s.id, b.branch, b.base, b.base_size, 9007199254740991::bigint
  FROM {schema}.session AS s
  JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
  WHERE s.bucket = %(bucket)s AND s.id = ANY(%(ids)s::bytea[]) AND s.deleted IS NULL
  UNION ALL
  SELECT c.id, b.branch, b.base, b.base_size, least(c.stop, c.base_size)
  FROM chain AS c
  CROSS JOIN LATERAL (SELECT * FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = c.base LIMIT 1) AS b
)
SELECT c.id, e.key, e.branch, e.position, e.key_count, c.stop
FROM unnest(%(owners)s::bytea[], %(keys)s::text[]) AS k (id, key)
JOIN chain AS c ON c.id = k.id
CROSS JOIN LATERAL (
  SELECT * FROM {schema}.event WHERE bucket = %(bucket)s AND branch = c.branch AND key = k.key AND position < c.stop OFFSET 0
) AS e;

-- read_keyed_below: which keys stand in the first events of a branch's lineage, and where; OFFSET as in read_keyed
WITH RECURSIVE chain (branch, base, base_size, stop) AS (
  SELECT b.branch, b.base, b.base_size, %(size)s::bigint
  FROM {schema}.branch AS b
  WHERE b.bucket = %(bucket)s AND b.branch = %(branch)s
  UNION ALL
  SELECT b.branch, b.base, b.base_size, least(c.stop, c.base_size)
  FROM chain AS c
  CROSS JOIN LATERAL (SELECT * FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = c.base LIMIT 1) AS b
)
SELECT e.key, e.branch, e.position, e.key_count, c.stop
FROM unnest(%(keys)s::text[]) AS k (key)
CROSS JOIN chain AS c
CROSS JOIN LATERAL (
  SELECT * FROM {schema}.event WHERE bucket = %(bucket)s AND branch = c.branch AND key = k.key AND position < c.stop OFFSET 0
) AS e;

-- lock_joined_sessions: what lock_sessions does, in whatever buckets; a key begins with its bucket, so that the order is the same for all
SELECT session FROM {schema}.session
WHERE id = ANY(%(ids)s::bytea[]) AND deleted IS NULL
ORDER BY session FOR UPDATE;

-- read_joined_tips: what read_tips does, in whatever buckets
SELECT s.session, s.id, s.name, t.branch, b.id, b.writer, t.size, t.peaks, t.leaf, t.recorded, s.key_salt,
  l.number, l.nonce, l.holder, l.boot, l.until, l.ttl, l.taken, l.floor
FROM {schema}.session AS s
JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
JOIN {schema}.tip AS t ON t.bucket = s.bucket AND t.branch = s.current
LEFT JOIN {schema}.lease AS l ON l.bucket = s.bucket AND l.session = s.session
WHERE s.id = ANY(%(ids)s::bytea[]) AND s.deleted IS NULL;

-- read_joined_keyed: what read_keyed does, in whatever buckets
WITH RECURSIVE chain (bucket, id, branch, base, base_size, stop) AS (
  SELECT s.bucket, s.id, b.branch, b.base, b.base_size, 9007199254740991::bigint
  FROM {schema}.session AS s
  JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
  WHERE s.id = ANY(%(ids)s::bytea[]) AND s.deleted IS NULL
  UNION ALL
  SELECT c.bucket, c.id, b.branch, b.base, b.base_size, least(c.stop, c.base_size)
  FROM chain AS c
  CROSS JOIN LATERAL (SELECT * FROM {schema}.branch WHERE bucket = c.bucket AND branch = c.base LIMIT 1) AS b
)
SELECT c.id, e.key, e.branch, e.position, e.key_count, c.stop
FROM unnest(%(owners)s::bytea[], %(keys)s::text[]) AS k (id, key)
JOIN chain AS c ON c.id = k.id
CROSS JOIN LATERAL (
  SELECT * FROM {schema}.event WHERE bucket = c.bucket AND branch = c.branch AND key = k.key AND position < c.stop OFFSET 0
) AS e;

-- read_home: the bucket and key of the session that has a name
SELECT home, session FROM {schema}.directory
WHERE bucket = %(bucket)s AND tenant = coalesce(current_setting('everlog.tenant', true), '') AND name = %(name)s;

-- read_found: a living session by its name, with its current branch and its lease
SELECT {session}, {branch}, {lease}
FROM {schema}.session AS s
JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
JOIN {schema}.tip AS t ON t.bucket = s.bucket AND t.branch = s.current
LEFT JOIN {schema}.lease AS l ON l.bucket = s.bucket AND l.session = s.session
WHERE s.bucket = %(bucket)s AND s.tenant = coalesce(current_setting('everlog.tenant', true), '') AND s.name = %(name)s
  AND s.deleted IS NULL;

-- read_found_chain: what read_chain gives of the current branch of a living session, by its name
WITH RECURSIVE chain (branch, id, writer, base, base_size, depth) AS (
  SELECT b.branch, b.id, b.writer, b.base, b.base_size, 0
  FROM {schema}.session AS s
  JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
  WHERE s.bucket = %(bucket)s AND s.tenant = coalesce(current_setting('everlog.tenant', true), '') AND s.name = %(name)s
    AND s.deleted IS NULL
  UNION ALL
  SELECT b.branch, b.id, b.writer, b.base, b.base_size, chain.depth + 1
  FROM chain
  JOIN {schema}.branch AS b ON b.bucket = %(bucket)s AND b.branch = chain.base
)
SELECT branch, id, writer, base_size FROM chain ORDER BY depth;

-- read_session_by_id: a living session by its 16 bytes, wherever it is
SELECT {session} FROM {schema}.session AS s WHERE s.id = %(id)s AND s.deleted IS NULL;

-- read_session_in: a living session by its 16 bytes, in one bucket
SELECT {session} FROM {schema}.session AS s WHERE s.bucket = %(bucket)s AND s.id = %(id)s AND s.deleted IS NULL;

-- read_session_of: the living session that owns a branch
SELECT {session}
FROM {schema}.branch AS b
JOIN {schema}.session AS s ON s.bucket = b.bucket AND s.session = b.session
WHERE b.bucket = %(bucket)s AND b.branch = %(branch)s AND s.deleted IS NULL;

-- read_current_branch: the current branch of a living session
SELECT {branch}
FROM {schema}.session AS s
JOIN {schema}.branch AS b ON b.bucket = s.bucket AND b.branch = s.current
JOIN {schema}.tip AS t ON t.bucket = s.bucket AND t.branch = s.current
WHERE s.bucket = %(bucket)s AND s.id = %(id)s AND s.deleted IS NULL;

-- read_branch: a branch by its key
SELECT {branch}
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
WHERE b.bucket = %(bucket)s AND b.branch = %(branch)s;

-- read_branch_by_id: a branch by its 16 bytes, wherever it is
SELECT {branch}
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
WHERE b.id = %(id)s;

-- read_branches: a session's branches by number
SELECT {branch}
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
WHERE b.bucket = %(bucket)s AND b.session = %(session)s
ORDER BY b.number;

-- read_chain: a branch and its bases, the branch first; LIMIT keeps the server from hashing all branches for each of them
WITH RECURSIVE chain (branch, id, writer, base, base_size, depth) AS (
  SELECT branch, id, writer, base, base_size, 0 FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = %(branch)s
  UNION ALL
  SELECT b.branch, b.id, b.writer, b.base, b.base_size, chain.depth + 1
  FROM chain
  CROSS JOIN LATERAL (SELECT * FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = chain.base LIMIT 1) AS b
)
SELECT branch, id, writer, base_size FROM chain ORDER BY depth;

-- read_forks: living sessions that share events owned by a session's branches
SELECT DISTINCT {session}
FROM {schema}.branch AS own
JOIN {schema}.branch AS fork ON fork.bucket = own.bucket AND fork.base = own.branch
JOIN {schema}.session AS s ON s.bucket = fork.bucket AND s.session = fork.session
WHERE own.bucket = %(bucket)s AND own.session = %(session)s AND s.session <> %(session)s AND s.deleted IS NULL;

-- read_lease: the last lease of a living session
SELECT {lease}
FROM {schema}.session AS s
JOIN {schema}.lease AS l ON l.bucket = s.bucket AND l.session = s.session
WHERE s.bucket = %(bucket)s AND s.id = %(id)s AND s.deleted IS NULL;

-- read_leases: the leases that live, the last taken first
SELECT {session}, {lease}
FROM {schema}.lease AS l
JOIN {schema}.session AS s ON s.bucket = l.bucket AND s.session = l.session
WHERE l.holder IS NOT NULL AND l.boot = %(boot)s AND l.until > %(now)s
ORDER BY l.taken DESC
LIMIT %(limit)s;

-- read_rows: whole rows of ranges of branches, in the order of their positions, as many as fit into a page; OFFSET has each read by
-- the index: planned without its bounds a join would read all of the bucket
SELECT position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone, attached, commitments,
  leaf, nodes, salt, body
FROM (
  SELECT e.*, coalesce(octet_length(e.body), 0) AS own, sum(coalesce(octet_length(e.body), 0)) OVER (ORDER BY e.position) AS held
  FROM unnest(%(branches)s::bigint[], %(starts)s::bigint[], %(stops)s::bigint[]) AS r (branch, start, stop)
  CROSS JOIN LATERAL (
    SELECT * FROM {schema}.event WHERE bucket = %(bucket)s AND branch = r.branch AND position >= r.start AND position < r.stop OFFSET 0
  ) AS e
) AS ranged
WHERE held <= %(bytes)s OR held = own
ORDER BY position;

-- read_leaves: leaf, nodes and time of single events
SELECT e.position, e.leaf, e.nodes, e.recorded, e.gone, e.branch
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
JOIN {schema}.event AS e ON e.bucket = %(bucket)s AND e.branch = r.branch AND e.position = r.position;

-- read_attachments: an event's attachments, in order, with its leaf
SELECT a.name, a.size, a.salt, a.content, a.digest, e.leaf
FROM {schema}.attachment AS a
JOIN {schema}.event AS e ON e.bucket = a.bucket AND e.branch = a.branch AND e.position = a.position
WHERE a.bucket = %(bucket)s AND a.branch = %(branch)s AND a.position = %(position)s
ORDER BY a.number;

-- read_named: events of living sessions by idempotency key, the last recorded first
SELECT b.id, b.writer, s.name, e.branch, {event}
FROM {schema}.event AS e
JOIN {schema}.branch AS b ON b.bucket = e.bucket AND b.branch = e.branch
JOIN {schema}.session AS s ON s.bucket = b.bucket AND s.session = b.session
WHERE e.key = %(key)s AND s.deleted IS NULL
ORDER BY e.recorded DESC, e.bucket, e.feed DESC
LIMIT %(limit)s;

-- read_counters: the number of the last event of each bucket, and its count of erasures
SELECT bucket, feed, erasures FROM {schema}.bucket ORDER BY bucket;

-- read_feed_ends: the last event of each bucket that has any
SELECT c.bucket, e.feed, e.leaf
FROM {schema}.bucket AS c
CROSS JOIN LATERAL (
  SELECT feed, leaf FROM {schema}.event AS each WHERE each.bucket = c.bucket ORDER BY feed DESC LIMIT 1
) AS e
ORDER BY c.bucket;

-- read_feed: events of one bucket after a number, as many as fit into a page, with what each is read through
SELECT feed, branch, branch_id, writer, name, position, type, actor, outcome, recorded, occurred, cause, key, gone, attached, leaf, body
FROM (
  SELECT e.feed, e.branch, b.id AS branch_id, b.writer, s.name, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred,
    e.cause, e.key, e.gone, e.attached, e.leaf, e.body, coalesce(octet_length(e.body), 0) AS own,
    sum(coalesce(octet_length(e.body), 0)) OVER (ORDER BY e.feed) AS held
  FROM (
    SELECT * FROM {schema}.event WHERE bucket = %(bucket)s AND feed > %(after)s ORDER BY feed LIMIT %(limit)s
  ) AS e
  JOIN {schema}.branch AS b ON b.bucket = %(bucket)s AND b.branch = e.branch
  JOIN {schema}.session AS s ON s.bucket = %(bucket)s AND s.session = b.session
) AS fed
WHERE held <= %(bytes)s OR held = own
ORDER BY feed;

-- read_feed_leaves: the leaves at a number of each of several buckets
SELECT e.bucket, e.leaf
FROM unnest(%(buckets)s::bigint[], %(feeds)s::bigint[]) AS r (bucket, feed)
JOIN {schema}.event AS e ON e.bucket = r.bucket AND e.feed = r.feed;

-- insert_name: take a name
INSERT INTO {schema}.directory (bucket, name, home, session) VALUES (%(bucket)s, %(name)s, %(home)s, %(session)s);

-- drop_name: give a name back
DELETE FROM {schema}.directory
WHERE bucket = %(bucket)s AND name = %(name)s AND home = %(home)s AND session = %(session)s;

-- insert_session: a new session, without a current branch
INSERT INTO {schema}.session (bucket, session, id, family, key_salt, name, title, labels, metadata, parent, salt, created)
VALUES (%(bucket)s, %(session)s, %(id)s, %(family)s, %(key_salt)s, %(name)s, %(title)s, %(labels)s, %(metadata)s, %(parent)s,
  %(salt)s, %(created)s);

-- insert_labels: the labels of a session, for listing
INSERT INTO {schema}.label (bucket, name, value, session)
SELECT %(bucket)s, l.name, l.value, %(session)s FROM unnest(%(names)s::text[], %(values)s::text[]) AS l (name, value);

-- delete_labels: the labels of a session, before new ones
DELETE FROM {schema}.label WHERE bucket = %(bucket)s AND session = %(session)s;

-- insert_branch: a new branch, numbered within its session
INSERT INTO {schema}.branch (bucket, branch, id, session, number, writer, base, base_size, created)
SELECT %(bucket)s, %(branch)s, %(id)s, %(session)s, coalesce(max(number), 0) + 1, %(writer)s, %(base)s, %(base_size)s, %(created)s
FROM {schema}.branch WHERE bucket = %(bucket)s AND session = %(session)s;

-- insert_tip: where a new branch ends
INSERT INTO {schema}.tip (bucket, branch, size, recorded, minute, leaf, peaks)
VALUES (%(bucket)s, %(branch)s, %(size)s, %(recorded)s, %(recorded)s / 60000000, %(leaf)s, %(peaks)s);

-- set_tips: where branches end after their last events
UPDATE {schema}.tip AS t
SET size = n.size, recorded = n.recorded, minute = n.recorded / 60000000, leaf = n.leaf, peaks = n.peaks
FROM unnest(%(branches)s::bigint[], %(sizes)s::bigint[], %(recorded)s::bigint[], %(leaves)s::bytea[], %(peaks)s::bytea[])
  AS n (branch, size, recorded, leaf, peaks)
WHERE t.bucket = %(bucket)s AND t.branch = n.branch;

-- count_events: number what is about to be recorded; held until the end of the transaction
UPDATE {schema}.bucket SET feed = feed + %(count)s WHERE bucket = %(bucket)s RETURNING bucket, feed;

-- insert_events: events at the ends of branches, numbered in this order
INSERT INTO {schema}.event (bucket, branch, position, feed, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash,
  covers, gone, attached, commitments, leaf, nodes, salt, body)
SELECT %(bucket)s, n.branch, n.position, c.feed - %(count)s + n.place, n.type, n.actor, n.outcome, n.recorded, n.occurred, n.cause,
  n.key, n.key_count, n.key_hash, n.covers, n.gone, n.attached, n.commitments, n.leaf, n.nodes, n.salt, n.body
FROM {schema}.bucket AS c, unnest(%(branch)s::bigint[], %(position)s::bigint[], %(type)s::text[], %(actor)s::text[],
  %(outcome)s::text[], %(recorded)s::bigint[], %(occurred)s::bigint[], %(cause)s::bytea[], %(key)s::text[],
  %(key_count)s::integer[], %(key_hash)s::bytea[], %(covers)s::text[], %(gone)s::smallint[], %(attached)s::text[],
  %(commitments)s::bytea[], %(leaf)s::bytea[], %(nodes)s::bytea[], %(salt)s::bytea[], %(body)s::bytea[]) WITH ORDINALITY
  AS n (branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone, attached,
  commitments, leaf, nodes, salt, body, place)
WHERE c.bucket = %(bucket)s;

-- set_joined_tips: what set_tips does, in several buckets
UPDATE {schema}.tip AS t
SET size = n.size, recorded = n.recorded, minute = n.recorded / 60000000, leaf = n.leaf, peaks = n.peaks
FROM unnest(%(buckets)s::smallint[], %(branches)s::bigint[], %(sizes)s::bigint[], %(recorded)s::bigint[], %(leaves)s::bytea[],
  %(peaks)s::bytea[]) AS n (bucket, branch, size, recorded, leaf, peaks)
WHERE t.bucket = n.bucket AND t.branch = n.branch;

-- lock_joined_buckets: keep others from writing to buckets until the end of the transaction, in one order for all
SELECT bucket FROM {schema}.bucket WHERE bucket = ANY(%(buckets)s::smallint[]) ORDER BY bucket FOR UPDATE;

-- count_joined_events: what count_events does, in several buckets that are locked
UPDATE {schema}.bucket AS c SET feed = c.feed + n.count
FROM unnest(%(buckets)s::smallint[], %(counts)s::bigint[]) AS n (bucket, count)
WHERE c.bucket = n.bucket RETURNING c.bucket, c.feed;

-- insert_joined_events: what insert_events does, in several buckets. behind: how many of its bucket come behind an event
INSERT INTO {schema}.event (bucket, branch, position, feed, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash,
  covers, gone, attached, commitments, leaf, nodes, salt, body)
SELECT n.bucket, n.branch, n.position, c.feed - n.behind, n.type, n.actor, n.outcome, n.recorded, n.occurred, n.cause,
  n.key, n.key_count, n.key_hash, n.covers, n.gone, n.attached, n.commitments, n.leaf, n.nodes, n.salt, n.body
FROM unnest(%(bucket)s::smallint[], %(branch)s::bigint[], %(behind)s::bigint[], %(position)s::bigint[], %(type)s::text[],
  %(actor)s::text[], %(outcome)s::text[], %(recorded)s::bigint[], %(occurred)s::bigint[], %(cause)s::bytea[], %(key)s::text[],
  %(key_count)s::integer[], %(key_hash)s::bytea[], %(covers)s::text[], %(gone)s::smallint[], %(attached)s::text[],
  %(commitments)s::bytea[], %(leaf)s::bytea[], %(nodes)s::bytea[], %(salt)s::bytea[], %(body)s::bytea[])
  AS n (bucket, branch, behind, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone,
  attached, commitments, leaf, nodes, salt, body)
JOIN {schema}.bucket AS c ON c.bucket = n.bucket;

-- copy_events: many events at the ends of branches, as insert_events does; the server is sent them row after row
COPY {schema}.event (bucket, feed, branch, position, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers,
  gone, attached, commitments, leaf, nodes, salt, body)
FROM STDIN (FORMAT BINARY);

-- insert_event: one event at the end of a branch
INSERT INTO {schema}.event (bucket, branch, position, feed, type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash,
  covers, gone, attached, commitments, leaf, nodes, salt, body)
SELECT c.bucket, %(branch)s, %(position)s, c.feed, %(type)s, %(actor)s, %(outcome)s, %(recorded)s, %(occurred)s, %(cause)s, %(key)s,
  %(key_count)s, %(key_hash)s, %(covers)s, %(gone)s, %(attached)s, %(commitments)s, %(leaf)s, %(nodes)s, %(salt)s, %(body)s
FROM {schema}.bucket AS c WHERE c.bucket = %(bucket)s;

-- set_tip: where a branch ends after its last event
UPDATE {schema}.tip
SET size = %(size)s, recorded = %(recorded)s, minute = %(recorded)s / 60000000, leaf = %(leaf)s, peaks = %(peaks)s
WHERE bucket = %(bucket)s AND branch = %(branch)s;

-- insert_attachments: attachments of events
INSERT INTO {schema}.attachment (bucket, branch, position, number, name, size, salt, content)
SELECT %(bucket)s, n.branch, n.position, n.number, n.name, n.size, n.salt, n.content
FROM unnest(%(branch)s::bigint[], %(position)s::bigint[], %(number)s::integer[], %(name)s::text[], %(size)s::bigint[],
  %(salt)s::bytea[], %(content)s::bytea[]) AS n (branch, position, number, name, size, salt, content);

-- set_current: make a branch current
UPDATE {schema}.session SET current = %(branch)s WHERE bucket = %(bucket)s AND session = %(session)s;

-- set_names: what a session is called
UPDATE {schema}.session SET title = %(title)s, labels = %(labels)s, metadata = %(metadata)s
WHERE bucket = %(bucket)s AND session = %(session)s;

-- erase_events: destroy bodies, their salts and the names of their attachments
UPDATE {schema}.event AS e SET body = NULL, salt = NULL, attached = NULL, gone = 1
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
WHERE e.bucket = %(bucket)s AND e.branch = r.branch AND e.position = r.position;

-- erase_attachments: destroy attachments, their names and salts
DELETE FROM {schema}.attachment AS a
USING unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
WHERE a.bucket = %(bucket)s AND a.branch = r.branch AND a.position = r.position;

-- erase_snapshots: of states that an event went into, on its own branch and those that share it
WITH RECURSIVE chain (branch) AS (
  SELECT %(branch)s::bigint
  UNION ALL
  SELECT b.branch
  FROM chain
  JOIN {schema}.branch AS b ON b.bucket = %(bucket)s AND b.base = chain.branch AND b.base_size > %(position)s
)
DELETE FROM {schema}.snapshot
WHERE bucket = %(bucket)s AND branch IN (SELECT branch FROM chain) AND size > %(position)s;

-- read_names: what a session is called
SELECT name FROM {schema}.session WHERE bucket = %(bucket)s AND session = %(session)s;

-- end_session: destroy what a session is called
UPDATE {schema}.session
SET name = NULL, title = NULL, labels = '{{}}', metadata = NULL, parent = NULL, salt = '', deleted = %(deleted)s
WHERE bucket = %(bucket)s AND session = %(session)s;

-- begin_sweep: mark the branches of a deleted session for destruction of their own events
UPDATE {schema}.branch SET swept = base_size WHERE bucket = %(bucket)s AND session = %(session)s;

-- end_snapshots: of a session's branches
DELETE FROM {schema}.snapshot WHERE bucket = %(bucket)s AND branch IN (
  SELECT branch FROM {schema}.branch WHERE bucket = %(bucket)s AND session = %(session)s
);

-- end_lease: a deleted session has none
DELETE FROM {schema}.lease WHERE bucket = %(bucket)s AND session = %(session)s;

-- read_sweeps: branches whose own events are to be destroyed
SELECT b.bucket, b.branch, b.swept, t.size
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
WHERE b.swept IS NOT NULL
LIMIT 100;

-- sweep_events: destroy all but leaf and nodes of a range of a branch's own events
UPDATE {schema}.event
SET type = NULL, actor = NULL, outcome = NULL, recorded = NULL, occurred = NULL, cause = NULL, key = NULL, key_count = NULL,
  key_hash = NULL, covers = NULL, gone = 3, attached = NULL, commitments = NULL, salt = NULL, body = NULL
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s;

-- sweep_attachments: destroy the attachments of a range of a branch's own events
DELETE FROM {schema}.attachment
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s;

-- set_swept: how far a branch's own events are destroyed; NULL when all are
UPDATE {schema}.branch SET swept = %(swept)s WHERE bucket = %(bucket)s AND branch = %(branch)s;

-- insert_ledger: a pending record
INSERT INTO {schema}.ledger (bucket, entry, record, reason) VALUES (%(bucket)s, %(entry)s, %(record)s, %(reason)s);

-- insert_erasures: that a record says of events that their bodies were destroyed
INSERT INTO {schema}.erasure (bucket, leaf, entry)
SELECT %(bucket)s, n.leaf, %(entry)s FROM unnest(%(leaves)s::bytea[]) AS n (leaf)
ON CONFLICT (bucket, leaf) DO NOTHING;

-- read_erasure: the record that says that an event's body was destroyed
SELECT l.entry, l.record, l.reason
FROM {schema}.erasure AS e
JOIN {schema}.ledger AS l ON l.bucket = e.bucket AND l.entry = e.entry
WHERE e.leaf = %(leaf)s;

-- read_ledger: pending records by number
SELECT entry, record, reason FROM {schema}.ledger WHERE entry > %(after)s ORDER BY entry LIMIT %(limit)s;

-- read_erasures: the number that every erasure and deletion in a bucket raises
SELECT erasures FROM {schema}.bucket WHERE bucket = %(bucket)s;

-- raise_erasures: after an erasure or a deletion
UPDATE {schema}.bucket SET erasures = erasures + 1 WHERE bucket = %(bucket)s;

-- read_snapshot_chain: the newest snapshot in ranges of cuts of branches, behind those that it is a delta from, keyframe first
WITH RECURSIVE newest AS (
  SELECT k.*
  FROM unnest(%(branches)s::bigint[], %(starts)s::bigint[], %(stops)s::bigint[]) AS r (branch, start, stop)
  CROSS JOIN LATERAL (
    SELECT * FROM {schema}.snapshot AS each
    WHERE each.bucket = %(bucket)s AND each.branch = r.branch AND each.fingerprint = %(fingerprint)s
      AND each.size > r.start AND each.size <= r.stop
    ORDER BY each.size DESC
    LIMIT 1
  ) AS k
  ORDER BY k.size DESC
  LIMIT 1
), chain AS (
  SELECT newest.*, 0 AS back FROM newest
  UNION ALL
  SELECT n.*, chain.back + 1
  FROM chain
  JOIN {schema}.snapshot AS n ON n.bucket = %(bucket)s AND n.branch = chain.base_branch AND n.fingerprint = %(fingerprint)s
    AND n.size = chain.base_size
  WHERE chain.back + 1 < %(most)s
)
SELECT {snapshot}, n.content, n.checksum FROM chain AS n ORDER BY n.back DESC;

-- list_snapshots: snapshots without contents, page by page, of all branches or one
SELECT {snapshot}, octet_length(n.content), n.checksum
FROM {schema}.snapshot AS n
WHERE (n.branch, n.fingerprint, n.size) > (%(after_branch)s, %(after_fingerprint)s, %(after_size)s)
  AND (%(branch)s::bigint IS NULL OR (n.bucket = %(bucket)s AND n.branch = %(branch)s))
ORDER BY n.branch, n.fingerprint, n.size
LIMIT %(limit)s;

-- put_snapshot: a snapshot, in the place of an earlier one there
INSERT INTO {schema}.snapshot (bucket, branch, fingerprint, size, reducer, version, base_branch, base_size, depth, plain, notes, taken,
  content, checksum)
VALUES (%(bucket)s, %(branch)s, %(fingerprint)s, %(size)s, %(reducer)s, %(version)s, %(base_branch)s, %(base_size)s, %(depth)s,
  %(plain)s, %(notes)s, %(taken)s, %(content)s, %(checksum)s)
ON CONFLICT (bucket, branch, fingerprint, size) DO UPDATE SET
  reducer = excluded.reducer,
  version = excluded.version,
  base_branch = excluded.base_branch,
  base_size = excluded.base_size,
  depth = excluded.depth,
  plain = excluded.plain,
  notes = excluded.notes,
  taken = excluded.taken,
  content = excluded.content,
  checksum = excluded.checksum;

-- drop_snapshots: in a bucket, of these branches or all, of one reducer or all
DELETE FROM {schema}.snapshot
WHERE bucket = %(bucket)s
  AND (%(branches)s::bigint[] IS NULL OR branch = ANY(%(branches)s::bigint[]))
  AND (%(reducer)s::text IS NULL OR reducer = %(reducer)s::text)
RETURNING size;

-- set_lease: a session's lease, in the place of its last
INSERT INTO {schema}.lease (bucket, session, number, nonce, holder, boot, until, ttl, taken, floor)
VALUES (%(bucket)s, %(session)s, %(number)s, %(nonce)s, %(holder)s, %(boot)s, %(until)s, %(ttl)s, %(taken)s, %(floor)s)
ON CONFLICT (bucket, session) DO UPDATE SET
  number = excluded.number,
  nonce = excluded.nonce,
  holder = excluded.holder,
  boot = excluded.boot,
  until = excluded.until,
  ttl = excluded.ttl,
  taken = excluded.taken,
  floor = excluded.floor;

-- has_event: whether an event is recorded as it was written
SELECT 1 FROM {schema}.event WHERE bucket = %(bucket)s AND branch = %(branch)s AND position = %(position)s AND leaf = %(leaf)s;

-- has_branch: whether a branch is recorded; another may have been given its key
SELECT 1 FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = %(branch)s AND id = %(id)s;

-- has_entry: whether a record is in the ledger; another may have been given its key
SELECT 1 FROM {schema}.ledger WHERE bucket = %(bucket)s AND entry = %(entry)s AND record = %(record)s;

-- notify: tell whoever listens that something was recorded
NOTIFY {schema}_news;

-- listen: hear of what is recorded
LISTEN {schema}_news;

-- list_cold: branches of living sessions with own events that are not packed, by key
SELECT b.branch, coalesce(b.packed, b.base_size), t.size, t.recorded
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
JOIN {schema}.session AS s ON s.bucket = b.bucket AND s.session = b.session
WHERE b.branch > %(after)s AND t.size > coalesce(b.packed, b.base_size) AND s.deleted IS NULL
ORDER BY b.branch
LIMIT %(limit)s;

-- read_packed: how far a branch's own events are packed, of a living session
SELECT coalesce(b.packed, b.base_size), t.size
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = %(bucket)s AND t.branch = b.branch
JOIN {schema}.session AS s ON s.bucket = %(bucket)s AND s.session = b.session
WHERE b.bucket = %(bucket)s AND b.branch = %(branch)s AND s.deleted IS NULL;

-- set_packed: how far a branch's own events are packed
UPDATE {schema}.branch SET packed = %(packed)s WHERE bucket = %(bucket)s AND branch = %(branch)s;

-- insert_block: a block of bodies
INSERT INTO {schema}.block (bucket, block, branch, start, stop, kind, newest, dictionary, plain, size, checksum, content)
VALUES (%(bucket)s, %(block)s, %(branch)s, %(start)s, %(stop)s, %(kind)s, %(newest)s, %(dictionary)s, %(plain)s, %(size)s,
  %(checksum)s, %(content)s);

-- insert_shared: what is kept once, where it is not there yet
INSERT INTO {schema}.block (bucket, block, start, stop, digest, newest, plain, size, checksum, content)
VALUES (%(bucket)s, %(block)s, 0, 0, %(digest)s, %(newest)s, %(plain)s, %(size)s, %(checksum)s, %(content)s)
ON CONFLICT (bucket, tenant, digest) WHERE digest IS NOT NULL
DO UPDATE SET newest = greatest({schema}.block.newest, excluded.newest);

-- empty_rows: take bodies that are in blocks out of their rows
UPDATE {schema}.event SET body = NULL, salt = NULL
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position = ANY(%(positions)s::bigint[]);

-- empty_attachments: take attachments that are kept once out of their rows
UPDATE {schema}.attachment AS a SET content = NULL, digest = r.digest
FROM unnest(%(positions)s::bigint[], %(numbers)s::integer[], %(digests)s::bytea[]) AS r (position, number, digest)
WHERE a.bucket = %(bucket)s AND a.branch = %(branch)s AND a.position = r.position AND a.number = r.number;

-- insert_sharings: that events hold something that is kept once
INSERT INTO {schema}.sharing (bucket, branch, position, digest)
SELECT %(bucket)s, %(branch)s, r.position, r.digest
FROM unnest(%(positions)s::bigint[], %(digests)s::bytea[]) AS r (position, digest)
ON CONFLICT (bucket, branch, position, digest) DO NOTHING;

-- insert_dictionary: a dictionary
INSERT INTO {schema}.dictionary (bucket, digest, kind, made, content)
VALUES (%(bucket)s, %(digest)s, %(kind)s, %(made)s, %(content)s)
ON CONFLICT (bucket, tenant, digest) DO NOTHING;

-- read_dictionaries: the newest dictionary of each kind
SELECT DISTINCT ON (kind) digest, kind, made, content FROM {schema}.dictionary WHERE bucket = 0 ORDER BY kind, made DESC;

-- read_dictionary: a dictionary
SELECT content FROM {schema}.dictionary WHERE bucket = 0 AND digest = %(digest)s;

-- read_blocks_over: the blocks that hold bodies of ranges of branches' own events; OFFSET as in read_rows
SELECT {block}, k.content
FROM unnest(%(branches)s::bigint[], %(starts)s::bigint[], %(stops)s::bigint[]) AS r (branch, start, stop)
CROSS JOIN LATERAL (
  SELECT * FROM {schema}.block
  WHERE bucket = %(bucket)s AND branch = r.branch AND start < r.stop AND stop > r.start
    AND start >= (
      SELECT coalesce(max(f.start), r.start)
      FROM {schema}.block AS f
      WHERE f.bucket = %(bucket)s AND f.branch = r.branch AND f.start <= r.start
    )
  OFFSET 0
) AS k
ORDER BY k.branch, k.start;

-- read_shared: what is kept once
SELECT {block}, k.content FROM {schema}.block AS k WHERE k.bucket = %(bucket)s AND k.digest = %(digest)s;

-- read_block: a block's content, if it is what it was
SELECT content FROM {schema}.block WHERE bucket = %(bucket)s AND block = %(block)s AND checksum = %(checksum)s;

-- list_blocks: blocks of a bucket in the store itself, by key, of one session or of all
SELECT {block}
FROM {schema}.block AS k
WHERE k.bucket = %(bucket)s AND k.block > %(after)s AND k.object IS NULL AND k.newest < %(newest)s
  AND (%(session)s::bigint IS NULL OR k.branch IN (
    SELECT b.branch FROM {schema}.branch AS b WHERE b.bucket = %(bucket)s AND b.session = %(session)s::bigint
  ))
ORDER BY k.block
LIMIT %(limit)s;

-- list_object_blocks: the blocks of an object, in the order of their places
SELECT {block} FROM {schema}.block AS k WHERE k.object = %(object)s ORDER BY k.place;

-- list_objects: objects, by id: those that hold what a session's lines need, or all
WITH RECURSIVE line (branch, base, base_size, stop) AS (
  SELECT b.branch, b.base, b.base_size, 9007199254740991::bigint
  FROM {schema}.branch AS b
  WHERE b.bucket = %(bucket)s AND b.session = %(session)s::bigint
  UNION
  SELECT b.branch, b.base, b.base_size, c.base_size
  FROM line AS c
  CROSS JOIN LATERAL (SELECT * FROM {schema}.branch WHERE bucket = %(bucket)s AND branch = c.base LIMIT 1) AS b
)
SELECT {object}
FROM {schema}.object AS o
WHERE %(session)s::bigint IS NULL OR (o.bucket = %(bucket)s AND o.id IN (
  SELECT k.object
  FROM line AS c
  JOIN {schema}.block AS k ON k.bucket = %(bucket)s AND k.branch = c.branch AND k.start < c.stop
  UNION
  SELECT k.object
  FROM line AS c
  JOIN {schema}.sharing AS h ON h.bucket = %(bucket)s AND h.branch = c.branch AND h.position < c.stop
  JOIN {schema}.block AS k ON k.bucket = %(bucket)s AND k.digest = h.digest
))
ORDER BY o.id;

-- read_object: an object
SELECT {object} FROM {schema}.object AS o WHERE o.bucket = %(bucket)s AND o.id = %(id)s;

-- insert_object: an object that is about to be written
INSERT INTO {schema}.object (bucket, id, url, name, size, checksum, state, made)
VALUES (%(bucket)s, %(id)s, %(url)s, %(name)s, %(size)s, %(checksum)s, %(state)s, %(made)s);

-- set_object: what becomes of an object
UPDATE {schema}.object SET state = %(state)s WHERE bucket = %(bucket)s AND id = %(id)s;

-- give_up_object: an object that nobody finished writing is one that nothing is in
UPDATE {schema}.object SET state = 'leaving'
WHERE bucket = %(bucket)s AND id = %(id)s AND state = 'writing'
RETURNING 1;

-- delete_object: an object whose bytes are gone
DELETE FROM {schema}.object
WHERE bucket = %(bucket)s AND id = %(id)s
  AND NOT EXISTS (SELECT 1 FROM {schema}.block AS k WHERE k.bucket = %(bucket)s AND k.object = %(id)s)
RETURNING 1;

-- archive_blocks: contents are in an object, where they are still what was written there
UPDATE {schema}.block AS k SET object = %(object)s, place = r.place, content = NULL
FROM unnest(%(blocks)s::bigint[], %(checksums)s::bytea[], %(places)s::bigint[]) AS r (block, checksum, place)
WHERE k.bucket = %(bucket)s AND k.block = r.block AND k.checksum = r.checksum AND k.content IS NOT NULL
RETURNING 1;

-- write_block: a block's content, in the place of what it was
UPDATE {schema}.block
SET plain = %(plain)s, size = %(size)s, checksum = %(checksum)s, content = %(content)s, object = NULL, place = NULL
WHERE bucket = %(bucket)s AND block = %(block)s;

-- delete_block: a block of which nothing is left
DELETE FROM {schema}.block WHERE bucket = %(bucket)s AND block = %(block)s;

-- read_gone: own events of a branch in a range whose bodies were destroyed
SELECT position FROM {schema}.event
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s AND gone IS NOT NULL;

-- taint_blocks: of blocks of a range of a branch's own events, the objects that hold them
UPDATE {schema}.object AS o SET state = 'tainted'
WHERE o.bucket = %(bucket)s AND o.id IN (
  SELECT k.object
  FROM {schema}.block AS k
  WHERE k.bucket = %(bucket)s AND k.branch = %(branch)s AND k.start < %(stop)s AND k.stop > %(start)s AND k.object IS NOT NULL
);

-- sweep_blocks: blocks of a range of a deleted session's own events
DELETE FROM {schema}.block
WHERE bucket = %(bucket)s AND branch = %(branch)s AND start < %(stop)s AND stop > %(start)s;

-- taint_shared: of what only events of a range hold, the objects that hold it
UPDATE {schema}.object AS o SET state = 'tainted'
WHERE o.bucket = %(bucket)s AND o.id IN (
  SELECT k.object
  FROM {schema}.sharing AS h
  JOIN {schema}.block AS k ON k.bucket = %(bucket)s AND k.digest = h.digest
  WHERE h.bucket = %(bucket)s AND h.branch = %(branch)s AND h.position >= %(start)s AND h.position < %(stop)s
    AND k.object IS NOT NULL AND NOT EXISTS (
      SELECT 1
      FROM {schema}.sharing AS other
      WHERE other.bucket = %(bucket)s AND other.digest = h.digest
        AND NOT (other.branch = %(branch)s AND other.position >= %(start)s AND other.position < %(stop)s)
    )
);

-- sweep_shared: what only events of a range hold
DELETE FROM {schema}.block AS k
WHERE k.bucket = %(bucket)s AND k.digest IN (
  SELECT h.digest
  FROM {schema}.sharing AS h
  WHERE h.bucket = %(bucket)s AND h.branch = %(branch)s AND h.position >= %(start)s AND h.position < %(stop)s
    AND NOT EXISTS (
      SELECT 1
      FROM {schema}.sharing AS other
      WHERE other.bucket = %(bucket)s AND other.digest = h.digest
        AND NOT (other.branch = %(branch)s AND other.position >= %(start)s AND other.position < %(stop)s)
    )
);

-- end_sharing: that events of a range hold what is kept once, no more
DELETE FROM {schema}.sharing
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s;

-- read_sharing: which of a branch's own events hold what is kept once
SELECT DISTINCT position FROM {schema}.sharing
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position = ANY(%(positions)s::bigint[]);

-- count_holders: what is kept once of these events, how many of them hold it, and how many events do at all
SELECT mine.digest, mine.held, (
  SELECT count(*) FROM {schema}.sharing AS holder WHERE holder.bucket = %(bucket)s AND holder.digest = mine.digest
)
FROM (
  SELECT h.digest, count(*) AS held
  FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
  JOIN {schema}.sharing AS h ON h.bucket = %(bucket)s AND h.branch = r.branch AND h.position = r.position
  GROUP BY h.digest
) AS mine;

-- read_sizes: what the store holds; walks the tables, on purpose
SELECT
  (SELECT count(*) FROM {schema}.event),
  (SELECT count(*) FROM {schema}.session WHERE deleted IS NULL),
  (SELECT coalesce(sum(octet_length(body)), 0)::bigint FROM {schema}.event)
    + (SELECT coalesce(sum(octet_length(content)), 0)::bigint FROM {schema}.attachment),
  (SELECT coalesce(sum(size), 0)::bigint FROM {schema}.block WHERE branch IS NOT NULL AND object IS NULL),
  (SELECT coalesce(sum(plain), 0)::bigint FROM {schema}.block WHERE branch IS NOT NULL),
  (SELECT coalesce(sum(size), 0)::bigint FROM {schema}.block WHERE digest IS NOT NULL AND object IS NULL),
  (SELECT coalesce(sum(plain), 0)::bigint FROM {schema}.block WHERE digest IS NOT NULL),
  (SELECT coalesce(sum(size), 0)::bigint FROM {schema}.block WHERE object IS NOT NULL),
  (SELECT count(*) FROM {schema}.block),
  (SELECT count(*) FROM {schema}.object),
  (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(name)s AND c.relkind = 'r');

-- read_growth: what was recorded on each day, with the bodies that stand in rows; walks the table, on purpose
SELECT recorded / 86400000000, count(*), coalesce(sum(octet_length(body)), 0)::bigint
FROM {schema}.event
WHERE recorded IS NOT NULL
GROUP BY 1
ORDER BY 1;

-- read_packed_growth: what blocks give back, by the day of the last event in them; walks the table, on purpose
SELECT newest / 86400000000, sum(plain)::bigint FROM {schema}.block WHERE branch IS NOT NULL GROUP BY 1;

-- insert_pending: that a record has no place in the ledger's tree yet
INSERT INTO {schema}.pending (bucket, entry) VALUES (%(bucket)s, %(entry)s);

-- read_tree: the ledger's tree; no row before its first record has a place
SELECT size, peaks, feeds FROM {schema}.tree
WHERE bucket = 0 AND tenant = coalesce(current_setting('everlog.tenant', true), '');

-- insert_tree: the ledger's tree, where there is none yet
INSERT INTO {schema}.tree (bucket, size, peaks, feeds) VALUES (%(bucket)s, 0, '', '[]') ON CONFLICT (bucket, tenant) DO NOTHING;

-- fill_pending: what was recorded before the tree had any place
INSERT INTO {schema}.pending (bucket, entry)
SELECT bucket, entry FROM {schema}.ledger WHERE tenant = coalesce(current_setting('everlog.tenant', true), '')
ON CONFLICT (bucket, entry) DO NOTHING;

-- set_tree: after records got their places
UPDATE {schema}.tree SET size = %(size)s, peaks = %(peaks)s, feeds = %(feeds)s
WHERE bucket = %(bucket)s AND tenant = coalesce(current_setting('everlog.tenant', true), '');

-- read_pending: records without a place, as they were made: a key is bucket * 2^53 + a number that the clock gave
SELECT l.entry, l.record, l.reason
FROM {schema}.pending AS p
JOIN {schema}.ledger AS l ON l.bucket = p.bucket AND l.entry = p.entry
WHERE p.tenant = coalesce(current_setting('everlog.tenant', true), '')
ORDER BY mod(l.entry, 9007199254740992), l.entry
LIMIT %(limit)s;

-- read_first_pending: the same before the tree has any place: then no record has one
SELECT entry, record, reason FROM {schema}.ledger
WHERE tenant = coalesce(current_setting('everlog.tenant', true), '')
ORDER BY mod(entry, 9007199254740992), entry
LIMIT %(limit)s;

-- drop_pending: records that got their places
DELETE FROM {schema}.pending
WHERE bucket = ANY(%(buckets)s::smallint[]) AND entry = ANY(%(entries)s::bigint[]);

-- insert_placed: records' places
INSERT INTO {schema}.placed (bucket, place, entry, record, branch, size, leaf, nodes)
SELECT %(bucket)s, n.place, n.entry, n.record, n.branch, n.size, n.leaf, n.nodes
FROM unnest(%(places)s::bigint[], %(entries)s::bigint[], %(records)s::bytea[], %(branches)s::bytea[], %(sizes)s::bigint[],
  %(leaves)s::bytea[], %(nodes)s::bytea[]) AS n (place, entry, record, branch, size, leaf, nodes);

-- read_placed: records by their places
SELECT entry, record, leaf, nodes, branch, size FROM {schema}.placed
WHERE bucket = 0 AND tenant = coalesce(current_setting('everlog.tenant', true), '') AND place >= %(start)s AND place < %(stop)s
ORDER BY place;

-- read_placed_nodes: leaves of the ledger's tree and the nodes that they complete
SELECT place, leaf, nodes FROM {schema}.placed
WHERE bucket = 0 AND tenant = coalesce(current_setting('everlog.tenant', true), '') AND place = ANY(%(places)s::bigint[]);

-- read_head_place: the first record that says that a branch had a size, or a larger one
SELECT place FROM {schema}.placed
WHERE bucket = 0 AND tenant = coalesce(current_setting('everlog.tenant', true), '') AND branch = %(branch)s AND size >= %(size)s
  AND place < %(below)s
ORDER BY size, place
LIMIT 1;

-- read_fed_branches: branches that events were added to in a bucket
SELECT max(feed), branch FROM {schema}.event
WHERE bucket = %(bucket)s AND feed > %(after)s AND feed <= %(end)s
GROUP BY branch;

-- read_branch_heads: branches of living sessions by their ids, with their peaks
SELECT b.id, s.id, t.size, t.peaks, base.id, b.base_size
FROM {schema}.branch AS b
JOIN {schema}.tip AS t ON t.bucket = b.bucket AND t.branch = b.branch
JOIN {schema}.session AS s ON s.bucket = b.bucket AND s.session = b.session AND s.deleted IS NULL
LEFT JOIN {schema}.branch AS base ON base.bucket = b.bucket AND base.branch = b.base
WHERE b.bucket = %(bucket)s AND b.branch = ANY(%(branches)s::bigint[])
ORDER BY b.branch;

-- insert_seal: a seal, which may be there
INSERT INTO {schema}.seal (bucket, digest, origin, size, made, note)
VALUES (%(bucket)s, %(digest)s, %(origin)s, %(size)s, %(made)s, %(note)s)
ON CONFLICT (bucket, tenant, digest) DO NOTHING;

-- list_seals: seals of smaller trees, the largest first
SELECT origin, size, made, note FROM {schema}.seal
WHERE bucket = 0 AND tenant = coalesce(current_setting('everlog.tenant', true), '') AND size < %(before)s
ORDER BY size DESC, made DESC
LIMIT %(limit)s;
-- read_search_places: how far the index for searching came in each bucket, for who asks (primary key)
SELECT bucket, feed FROM {schema}.search_place WHERE tenant = coalesce(current_setting('everlog.tenant', true), '');

-- make_search_place: that the index has nothing of a bucket yet (primary key)
INSERT INTO {schema}.search_place (bucket, feed) VALUES (%(bucket)s, 0) ON CONFLICT (bucket, tenant) DO NOTHING;

-- lock_search_place: keep others from filling the index of a bucket (primary key)
SELECT feed
FROM {schema}.search_place
WHERE bucket = %(bucket)s AND tenant = coalesce(current_setting('everlog.tenant', true), '')
FOR UPDATE;

-- share_bucket: keep others from destroying anything in a bucket until the end of the transaction, and nobody from appending
SELECT erasures FROM {schema}.bucket WHERE bucket = %(bucket)s FOR KEY SHARE;

-- insert_search: events, with the hashes of what they say (event_feed)
INSERT INTO {schema}.search_entry (bucket, feed, branch, position, type, actor, outcome, recorded, trigrams, tenant)
SELECT e.bucket, e.feed, e.branch, e.position, e.type, e.actor, e.outcome, e.recorded, r.trigrams::smallint[], e.tenant
FROM unnest(%(feeds)s::bigint[], %(trigrams)s::text[]) AS r (feed, trigrams)
JOIN {schema}.event AS e ON e.bucket = %(bucket)s AND e.feed = r.feed
WHERE e.type IS NOT NULL AND e.recorded IS NOT NULL
ON CONFLICT (bucket, feed) DO NOTHING;

-- set_search_place: how far the index came in a bucket (primary key)
UPDATE {schema}.search_place
SET feed = %(feed)s
WHERE bucket = %(bucket)s AND tenant = coalesce(current_setting('everlog.tenant', true), '');

-- read_chosen: events of one bucket by number, the last first, as many as fit into a page, with what each is read through (event_feed)
SELECT feed, branch, branch_id, writer, name, position, type, actor, outcome, recorded, occurred, cause, key, gone, attached, leaf, body
FROM (
  SELECT e.feed, e.branch, b.id AS branch_id, b.writer, s.name, e.position, e.type, e.actor, e.outcome, e.recorded, e.occurred,
    e.cause, e.key, e.gone, e.attached, e.leaf, e.body, coalesce(octet_length(e.body), 0) AS own,
    sum(coalesce(octet_length(e.body), 0)) OVER (ORDER BY e.feed DESC) AS held
  FROM {schema}.event AS e
  JOIN {schema}.branch AS b ON b.bucket = %(bucket)s AND b.branch = e.branch
  JOIN {schema}.session AS s ON s.bucket = %(bucket)s AND s.session = b.session
  WHERE e.bucket = %(bucket)s AND e.feed = ANY(%(feeds)s::bigint[])
) AS chosen
WHERE held <= %(bytes)s OR held = own
ORDER BY feed DESC;

-- erase_words: what events said that are erased (search_entry_branch)
UPDATE {schema}.search_entry AS k
SET trigrams = '{{}}'
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
WHERE k.bucket = %(bucket)s AND k.branch = r.branch AND k.position = r.position;

-- sweep_words: a range of a deleted session's own events (search_entry_branch)
DELETE FROM {schema}.search_entry
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s;

-- unindex_words: of events that are encrypted from now on: they are looked at each time (search_entry_branch)
UPDATE {schema}.search_entry AS k
SET trigrams = NULL
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
WHERE k.bucket = %(bucket)s AND k.branch = r.branch AND k.position = r.position;

-- list_wrapping_keys: keys that data keys are wrapped with, of each bucket the current one first
SELECT bucket, id, made, retired FROM {schema}.wrapping_key ORDER BY bucket, retired DESC NULLS FIRST;

-- read_wrapping_keys: those of one bucket, the current one first
SELECT bucket, id, made, retired FROM {schema}.wrapping_key WHERE bucket = %(bucket)s ORDER BY retired DESC NULLS FIRST;

-- insert_wrapping_key: the current one
INSERT INTO {schema}.wrapping_key (bucket, id, made) VALUES (%(bucket)s, %(id)s, %(made)s);

-- renew_wrapping_key: one that was retired, as the current one
UPDATE {schema}.wrapping_key SET retired = NULL WHERE bucket = %(bucket)s AND id = %(id)s;

-- retire_wrapping_keys: all of them
UPDATE {schema}.wrapping_key SET retired = %(now)s WHERE bucket = %(bucket)s AND retired IS NULL;

-- forget_wrapping_key: a retired key that no data key needs
DELETE FROM {schema}.wrapping_key AS w
WHERE w.bucket = %(bucket)s AND w.id = %(id)s AND w.retired IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM {schema}.data_key AS k WHERE k.bucket = %(bucket)s AND k.wrapping = %(id)s)
RETURNING w.id;

-- insert_data_keys: of events' bodies and attachments; refused, since NULL is, where what wraps them is not current any more
INSERT INTO {schema}.data_key (bucket, branch, position, wrapping, wrapped)
SELECT %(bucket)s, r.branch, r.position, (
    SELECT w.id FROM {schema}.wrapping_key AS w
    WHERE w.bucket = %(bucket)s AND w.id = %(wrapping)s AND w.retired IS NULL
    LIMIT 1
  ), r.wrapped
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[], %(wrapped)s::bytea[]) AS r (branch, position, wrapped);

-- refuse_plain: refused, since NULL is, where the bucket encrypts by now; behind what was written in plain text, and behind its counter
INSERT INTO {schema}.data_key (bucket, branch, position, wrapping, wrapped)
SELECT w.bucket, 0, 0, NULL::bytea, w.id FROM {schema}.wrapping_key AS w WHERE w.bucket = %(bucket)s AND w.retired IS NULL;

-- refuse_joined_plain: what refuse_plain does, of several buckets
INSERT INTO {schema}.data_key (bucket, branch, position, wrapping, wrapped)
SELECT w.bucket, 0, 0, NULL::bytea, w.id
FROM {schema}.wrapping_key AS w WHERE w.bucket = ANY(%(buckets)s::smallint[]) AND w.retired IS NULL;

-- read_data_keys: of single events
SELECT k.branch, k.position, k.wrapping, k.wrapped
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
JOIN {schema}.data_key AS k ON k.bucket = %(bucket)s AND k.branch = r.branch AND k.position = r.position;

-- list_data_keys: those of a bucket that one key wraps, page by page
SELECT branch, position, wrapped
FROM {schema}.data_key
WHERE bucket = %(bucket)s AND (branch, position) > (%(branch)s, %(position)s) AND wrapping = %(wrapping)s
ORDER BY branch, position
LIMIT %(limit)s;

-- count_plain: events in plain text where the store encrypts: every other that is there has a key; walks the tables, on purpose
SELECT CASE WHEN EXISTS (SELECT 1 FROM {schema}.wrapping_key)
  THEN (SELECT count(*) FROM {schema}.event WHERE gone IS NULL) - (SELECT count(*) FROM {schema}.data_key)
  ELSE 0 END;

-- rewrap_data_keys: wrapped with another key, as far as they are still there; refused, since NULL is, where that is not current any more
UPDATE {schema}.data_key AS k
SET wrapped = r.wrapped, wrapping = (
    SELECT w.id FROM {schema}.wrapping_key AS w
    WHERE w.bucket = %(bucket)s AND w.id = %(wrapping)s AND w.retired IS NULL
    LIMIT 1
  )
FROM unnest(%(branches)s::bigint[], %(positions)s::bigint[], %(wrapped)s::bytea[]) AS r (branch, position, wrapped)
WHERE k.bucket = %(bucket)s AND k.branch = r.branch AND k.position = r.position AND k.wrapping = %(retired)s
RETURNING k.position;

-- erase_data_keys: of events that are erased
DELETE FROM {schema}.data_key AS k
USING unnest(%(branches)s::bigint[], %(positions)s::bigint[]) AS r (branch, position)
WHERE k.bucket = %(bucket)s AND k.branch = r.branch AND k.position = r.position;

-- sweep_data_keys: of a range of a deleted session's own events
DELETE FROM {schema}.data_key
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position >= %(start)s AND position < %(stop)s;

-- seal_event: a body that is encrypted from now on
UPDATE {schema}.event SET body = %(body)s, salt = NULL
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position = %(position)s;

-- seal_attachment: an attachment that is encrypted from now on, and no more kept once
UPDATE {schema}.attachment SET content = %(content)s, salt = NULL, digest = NULL
WHERE bucket = %(bucket)s AND branch = %(branch)s AND position = %(position)s AND number = %(number)s;
