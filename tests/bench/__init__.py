"""Benchmarks beside real etcd: `python -m tests.bench`."""
