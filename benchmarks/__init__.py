"""Measurements of lamina next to the tools it competes with. Run each as ``python -m benchmarks.NAME``."""
