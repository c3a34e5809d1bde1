"""A race of searches over tables of training curves: `python tests/benchmarks race --help`."""
