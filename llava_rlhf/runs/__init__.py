"""What a run is, for all programs: its settings, folder, checkpoints, signals and metrics. Start with `arguments` and `starting`.

Not here: what only PPO or only the Trainer programs need (`ppo`, `supervised`). Nothing here knows a model's inside.
"""
