-- read_settings: settings by name
SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%(names)s);

-- read_clock: microseconds since 1970 UTC
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- has_store: whether there is a store in the schema
SELECT to_regclass(%(name)s) IS NOT NULL;

-- read_store: the store itself
SELECT version, buckets FROM {schema}.store WHERE bucket = 0;

-- count_sweeps: branches of deleted sessions that still hold events
SELECT count(*) FROM {schema}.branch WHERE swept IS NOT NULL;

-- read_encryption: whether the store encrypts, and how many events are in plain text if so; walks the tables then, on purpose
SELECT EXISTS (SELECT 1 FROM {schema}.wrapping_key), CASE WHEN EXISTS (SELECT 1 FROM {schema}.wrapping_key)
  THEN (SELECT count(*) FROM {schema}.event WHERE gone IS NULL) - (SELECT count(*) FROM {schema}.data_key)
  ELSE 0 END;

-- count_connections: allowed, used, idle in a transaction for more than ten seconds, and the oldest of those, in seconds; how many
-- are used may be seen by all, what they do by few
SELECT current_setting('max_connections')::integer, (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::integer,
  count(*) FILTER (WHERE state LIKE 'idle in transaction%%' AND now() - state_change > interval '10 seconds'),
  coalesce(extract(epoch FROM max(now() - state_change) FILTER (WHERE state LIKE 'idle in transaction%%')), 0)::float
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend';

-- read_tables: the schema's tables by size: bytes, living rows, dead rows
SELECT relname, pg_total_relation_size(relid), n_live_tup, n_dead_tup
FROM pg_catalog.pg_stat_user_tables WHERE schemaname = %(name)s
ORDER BY 2 DESC;

-- is_standby: whether the server only repeats what another does
SELECT pg_is_in_recovery();
