"""Ablations: the grid of ingredients, its runs, and what each ingredient does to the result. Start with `study`.

Not here: the scripts that a run is made of (`scripts/<size>/ablation_*.sh`) and the numbers of one run (`evaluation`).
"""
