"""The store: immutable objects named by BLAKE3, encoded into packs, found through an index in SQLite."""

from lamina.store.codec import Codec, Compression, parse_compression
from lamina.store.database import Database
from lamina.store.objects import Location, ObjectStore
from lamina.store.writer import Encoded, StoreWriter

__all__ = [
    "Codec",
    "Compression",
    "Database",
    "Encoded",
    "Location",
    "ObjectStore",
    "StoreWriter",
    "parse_compression",
]
