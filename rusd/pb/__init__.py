"""Messages of the etcd v3 API, generated from protos/ by `make protos`."""
