"""Stores: each speaks to one kind of storage, natively, and keeps the promises of storage.py."""
