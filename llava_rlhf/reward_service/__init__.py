"""A reward model behind HTTP, for trainers of other projects: what it is sent, how requests are scored together, what it refuses.

Start with `application`, the addresses and what stands behind each; `client` asks it from other environments, with the
standard library alone. Not here: how a row is read (`data_utils.answers`) and scored (`evaluation.reward_scoring`).
"""
