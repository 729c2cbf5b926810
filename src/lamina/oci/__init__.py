"""Container images from and to where people have them: registries, archives, layouts, container engines."""
