"""Disk: the Raft log, and the RocksDB database that the keyspace lives in."""
