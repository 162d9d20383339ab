"""What the keyspace refuses. The api room gives each its etcd text and code."""


class KeyspaceError(Exception):
    """A request that the keyspace refuses; the keyspace is unchanged."""


class CompactedError(KeyspaceError):
    """The revision asked for was compacted."""


class FutureRevisionError(KeyspaceError):
    """The revision asked for does not exist yet."""


class KeyNotFoundError(KeyspaceError):
    """ignore_value or ignore_lease on a key that does not exist."""


class LeaseNotFoundError(KeyspaceError):
    """A put names a lease that does not exist."""
