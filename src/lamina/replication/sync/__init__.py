"""Syncs: two laminas find out what one of them lacks, then a stream brings just that."""
