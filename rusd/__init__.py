"""rusd: etcd in Python."""

__version__ = "0.1.0"
ETCD_VERSION = "3.7.1"
"""The etcd release whose API rusd implements; what Status and /version report."""
