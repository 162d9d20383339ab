"""Leases: which exist, what hangs on them, and when they expire."""
