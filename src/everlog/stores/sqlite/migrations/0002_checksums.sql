-- What stands beside the events, so that a byte that changed on the disk is seen. NULL in rows that an earlier version made.
ALTER TABLE session ADD COLUMN checksum BLOB;
ALTER TABLE branch ADD COLUMN checksum BLOB;
