"""A race of searches over tables of training curves: `python -m tests.benchmarks.race --help`."""
