"""Images on their way into the pool: from registries, archives, layouts and engines."""
