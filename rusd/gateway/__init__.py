"""The JSON gateway: gRPC methods as HTTP paths with JSON bodies, as etcd's gateway has them."""
