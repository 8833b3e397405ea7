"""Models that answer while somebody waits: checkpoints by name, answers token by token, a score under each."""
