"""The benchmarks: each reads its published files, and turns answers into the values of each item."""
