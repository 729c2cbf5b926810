"""What replaces, moves, upgrades or removes a pool as a whole."""
