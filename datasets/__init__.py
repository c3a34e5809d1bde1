"""Long Range Arena tasks: readers, generators, the memory-mapped store and its batches (numpy, pyarrow, torch)."""
