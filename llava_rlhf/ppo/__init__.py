"""PPO: the loop, its rollouts, rewards, update and checkpoints. Start with `trainer`, the loop in numbered steps.

Not here: the formulas (`functional`), what policy, value and reward models are (`models.roles`), and how their weights are
found and loaded (`assembly`). `assembly` beside this file puts the parts of a run together.
"""
