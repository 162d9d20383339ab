"""Bytes to calls and back: HTTP/2, gRPC framing and HTTP/1.1 for servers. Knows no etcd message."""
