"""How much memory a run will take, known before a weight is loaded.

A plan (`plan.py`) is what is held all the time plus the widest of the phases that follow each other. What is held is
arithmetic over the shapes of weights (`weights.py`, `bases.py`). What a phase adds is counted while the real layers run on
tensors without contents (`tracing.py`, `passes.py`). `trainers.py` and `ppo.py` put both together as their programs do;
`request.py`, `settings.py` and `launch_lines.py` read what is asked; `programs.py` prints it. Start with `plan`. Not here:
memory that was measured (`benchmarks/`).
"""
