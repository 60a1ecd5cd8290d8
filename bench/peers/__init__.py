"""Everlog beside its peers, on the same disk in the same run: `python3 dev.py bench --peers`."""
