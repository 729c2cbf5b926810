"""Taking images in, and comparing them with where they came from."""
