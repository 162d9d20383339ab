"""The keyspace: revisions, ranges, transactions, compaction and watchers.

Imports nothing of rusd's other rooms but the generated messages.
"""
