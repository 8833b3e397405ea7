"""Answers first (JSON Lines), numbers second: scoring never needs the model."""
