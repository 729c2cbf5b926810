"""Images on their way out of the pool: into registries, archives and layouts."""
