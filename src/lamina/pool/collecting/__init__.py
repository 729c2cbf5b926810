"""Garbage collection: what names let go of is freed."""
