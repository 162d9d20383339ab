"""Certificates for labs and tests: a certificate authority, and one of each kind that it signs."""
