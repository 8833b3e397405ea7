"""Pages in a browser: how they are served, how they look, and what is on each."""
