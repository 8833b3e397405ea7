"""From a trained policy adapter to folders that other programs load."""
