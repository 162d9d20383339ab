"""etcd's services: each validates, proposes or reads, and answers."""
