"""A page of one picture field, served as the programs serve theirs: `python -m tests.support.small_page PORT`."""

from __future__ import annotations

import sys
from typing import Any

from llava_rlhf.pages.arguments import PageArguments
from llava_rlhf.pages.serving import serve


def build() -> Any:
    """The page."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as page:
        gr.Image(label="Picture", type="filepath")
    return page


if __name__ == "__main__":
    serve(build, PageArguments(port=int(sys.argv[1])))
