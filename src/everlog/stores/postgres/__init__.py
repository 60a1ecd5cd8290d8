"""The store in PostgreSQL: one log for many machines."""
