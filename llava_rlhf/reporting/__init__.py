"""A page on a training run: what its folder holds, the figures, which rollouts are shown, and the page itself.

Start with `run_data`. Not here: the report on a whole tiny world (`tiny_world.report`) and live pages (`pages`).
"""
