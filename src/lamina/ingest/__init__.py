"""Taking trees in: from a directory or a tar, through chunking and the store's writer, to a new root."""
