-- make_owner: owns the schema and all that is in it; nobody logs in as this role
CREATE ROLE {schema}_owner NOLOGIN;

-- make_app: what programs that use the log are members of
CREATE ROLE {schema}_app NOLOGIN;

-- make_maintenance: what erases, deletes and compacts
CREATE ROLE {schema}_maintenance NOLOGIN;

-- make_reader: what only reads
CREATE ROLE {schema}_reader NOLOGIN;

-- has_role: whether a role is there
SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %(name)s;

-- let_in: the roles may look into the schema
GRANT USAGE ON SCHEMA {schema} TO {schema}_owner, {schema}_app, {schema}_maintenance, {schema}_reader;

-- let_create: the owner may bring the schema up to date
GRANT CREATE ON SCHEMA {schema} TO {schema}_owner;

-- shut_out: nobody else may do anything
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {schema}_app, {schema}_maintenance, {schema}_reader;

-- let_read: the roles may read all
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {schema}_app, {schema}_maintenance, {schema}_reader;

-- let_record: programs add rows; the store's own row and the counters are made once
GRANT INSERT ON {schema}.directory, {schema}.session, {schema}.label, {schema}.branch, {schema}.tip, {schema}.event,
  {schema}.attachment, {schema}.ledger, {schema}.erasure, {schema}.snapshot, {schema}.lease
TO {schema}_app, {schema}_maintenance;

-- let_count: programs move counters and tips on
GRANT UPDATE (feed, erasures) ON {schema}.bucket TO {schema}_app, {schema}_maintenance;

-- let_move: where a branch ends
GRANT UPDATE (size, recorded, minute, leaf, peaks) ON {schema}.tip TO {schema}_app, {schema}_maintenance;

-- let_name: which branch is current, and what a session is called beside its name
GRANT UPDATE (current, title, labels, metadata) ON {schema}.session TO {schema}_app, {schema}_maintenance;

-- let_hold: leases
GRANT UPDATE ON {schema}.lease TO {schema}_app, {schema}_maintenance;

-- let_keep: snapshots and labels, which can be made again
GRANT UPDATE, DELETE ON {schema}.snapshot TO {schema}_app, {schema}_maintenance;

-- let_label: labels are in the session's row too
GRANT DELETE ON {schema}.label TO {schema}_app, {schema}_maintenance;

-- let_blank: maintenance destroys what may be destroyed of an event: all but its place, its leaf and its tree nodes
GRANT UPDATE (type, actor, outcome, recorded, occurred, cause, key, key_count, key_hash, covers, gone, attached, commitments, salt, body)
ON {schema}.event TO {schema}_maintenance;

-- let_clear: and attachments
GRANT UPDATE (content, salt, digest), DELETE ON {schema}.attachment TO {schema}_maintenance;

-- let_pack: and packs what it may destroy
GRANT INSERT, UPDATE, DELETE ON {schema}.block, {schema}.sharing, {schema}.object, {schema}.dictionary TO {schema}_maintenance;

-- let_index: programs fill the index for searching, and maintenance takes out what it destroys
GRANT INSERT ON {schema}.search_entry, {schema}.search_place TO {schema}_app, {schema}_maintenance;

-- let_index_on: how far it is
GRANT UPDATE (feed) ON {schema}.search_place TO {schema}_app, {schema}_maintenance;

-- let_unindex: what is destroyed
GRANT UPDATE (trigrams), DELETE ON {schema}.search_entry TO {schema}_maintenance;

-- let_end: and the names of sessions that end
GRANT UPDATE (name, parent, salt, deleted) ON {schema}.session TO {schema}_maintenance;

-- let_sweep: and notes how far it is
GRANT UPDATE (swept, packed) ON {schema}.branch TO {schema}_maintenance;

-- let_free: and gives names and leases back
GRANT DELETE ON {schema}.directory, {schema}.lease TO {schema}_maintenance;

-- let_pend: programs note which records are still to get their places
GRANT INSERT ON {schema}.pending TO {schema}_app, {schema}_maintenance;

-- let_seal: maintenance gives records their places and keeps seals; neither is ever changed
GRANT INSERT ON {schema}.placed, {schema}.tree, {schema}.seal TO {schema}_maintenance;

-- let_settle: and takes what has its place from what is pending
GRANT DELETE ON {schema}.pending TO {schema}_maintenance;

-- let_grow: and moves the tree's own row on
GRANT UPDATE (size, peaks, feeds) ON {schema}.tree TO {schema}_maintenance;

-- let_encrypt: programs keep the keys of what they write, and the first of them which key wraps these
GRANT INSERT ON {schema}.wrapping_key, {schema}.data_key TO {schema}_app, {schema}_maintenance;

-- let_shred: and maintenance destroys keys, and exchanges what wraps them
GRANT UPDATE, DELETE ON {schema}.wrapping_key, {schema}.data_key TO {schema}_maintenance;

-- list_tables: the tables of the schema
SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = %(name)s ORDER BY tablename;

-- give_table: to the owner
ALTER TABLE {table} OWNER TO {schema}_owner;

-- give_schema: to the owner
ALTER SCHEMA {schema} OWNER TO {schema}_owner;

-- lend_owner: to whoever makes the roles, so that what it owns can be given away
GRANT {schema}_owner TO CURRENT_USER;

-- has_policy: whether a table keeps tenants apart already
SELECT 1 FROM pg_catalog.pg_policies WHERE schemaname = %(name)s AND tablename = %(table)s AND policyname = 'tenant';

-- make_policy: who has set a tenant for a transaction sees and makes that tenant's rows; who has set none, those of none
CREATE POLICY tenant ON {table} USING (tenant = coalesce(current_setting('everlog.tenant', true), ''));

-- enable_policy: for all roles but superusers and those with BYPASSRLS
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;

-- force_policy: for the table's owner too
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
