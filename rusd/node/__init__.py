"""The pipeline of one member: batch, log, sync, apply, answer."""
