"""What Prometheus is told of this member, read from the rooms when it asks."""
