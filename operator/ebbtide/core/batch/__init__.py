"""Batch Jobs: which run now and where, which wait for when, and which give their GPUs back."""
