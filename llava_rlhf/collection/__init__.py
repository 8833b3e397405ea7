"""Collecting preferences: pairs of sampled answers, who judges which, what they said, and the file that comes of it."""
