"""Images from where they are into the pool, one by one: imported, verified, and then removed at their source."""
