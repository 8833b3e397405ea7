"""Pages in a browser: how they are served, how they look, and what is on each. Start with `serving`.

Not here: what a page shows — pairs and judgements (`collection`), models that answer (`interactive`), runs (`reporting`).
"""
