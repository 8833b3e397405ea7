"""A page on a training run: what its folder holds, the figures, which rollouts are shown, and the page itself."""
