"""Benchmarks: what it costs, measured beside bare SQLite in the same run. `python -m bench --help`."""
