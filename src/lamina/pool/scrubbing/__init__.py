"""Proving and mending what is stored."""
