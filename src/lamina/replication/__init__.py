"""Streams of snapshots between pools: written by send, read by receive, agreed on beforehand by sync."""
