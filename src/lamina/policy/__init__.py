"""Which snapshots to keep and when to make new ones."""
