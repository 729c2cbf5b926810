"""The store: immutable objects named by BLAKE3, encoded into packs, found through an index in SQLite."""
