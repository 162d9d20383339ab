"""Backups in etcd's own format: a member's state as a bbolt database, and back.

What is written here, etcd's tools and etcd itself take; what they write is taken here. `schema` has
etcd's buckets, `export` makes a file of a keyspace, `restore` a data directory of a file.
"""
