"""TLS for clients and members: who this member is, whom it lets in, and what it dials with."""
