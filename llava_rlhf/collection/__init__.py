"""Collecting preferences: pairs of sampled answers, who judges which, what they said, and the file that comes of it.

Start with `folder`, what a collection leaves on disk. Not here: the page on which people judge (`pages`), and the client
that asks an AI annotator (`engines.judge_client`).
"""
