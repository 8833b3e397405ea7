"""What an answer says, against what is known: things that a text names, and what they earn. Start with `mentions`.

Not here: where a reward stands in a response and who learns from it (`ppo`), and benchmarks of the same words
(`evaluation/benchmarks/chair.py`).
"""
