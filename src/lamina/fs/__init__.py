"""Trees: inodes, directories, extents; read views."""
