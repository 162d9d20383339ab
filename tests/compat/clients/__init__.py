"""What users' programs do, written with client libraries from PyPI; each runs in its own process.

Each library registers etcd's messages under the same names, so no two can share a process.
"""
