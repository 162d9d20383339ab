"""The Raft core: no I/O, no clock, no threads, no randomness of its own."""
