"""Figures beside those of the peers: ``python -m tests.benchmarks``."""
