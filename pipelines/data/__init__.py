"""Rows from files and the hub: reading, validation, deduplication, leakage."""
