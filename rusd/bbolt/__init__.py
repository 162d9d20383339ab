"""Reads and writes bbolt databases: the file format in which etcd keeps its data.

Whole files at a time: one is read as it is, or made anew in one pass. Nothing is changed in place.
"""

from rusd.bbolt.layout import BboltError
from rusd.bbolt.reader import Database
from rusd.bbolt.writer import Writer

__all__ = ["BboltError", "Database", "Writer"]
