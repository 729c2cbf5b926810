"""Where datasets come from and go: snapshots, clones, rollback, holds, bookmarks, renames, destroys, diffs."""
