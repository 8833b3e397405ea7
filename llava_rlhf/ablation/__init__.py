"""Ablations: the grid of ingredients, its runs, and what each ingredient does to the result."""
