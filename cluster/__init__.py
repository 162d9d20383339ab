"""What runs a cluster: container image, systemd unit, and three members on one machine."""
