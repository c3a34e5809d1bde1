"""Benchmarks: `proxytune bench`, each against what a user would pick instead, as ratios within one run."""
