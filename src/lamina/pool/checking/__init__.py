"""Comparing catalogue, packs, trees and names with each other."""
