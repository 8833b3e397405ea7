"""Who answers prompts with a policy's weights: the policy in this process, or a server beside it. Start with `interface`.
Besides, a judge behind a chat endpoint, which is asked about answers (`judge_client`).

Not here: how a model samples (`models/generation.py`), and what is made of the answers (`ppo`, `evaluation`).
"""
