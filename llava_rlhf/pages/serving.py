"""Serving a page: on this machine, offline, and with no file behind it but what its own browser uploaded.

Gradio is imported late, by whoever builds the page: it fixes the folder of its uploads when it is imported.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llava_rlhf.pages.arguments import PageArguments

if TYPE_CHECKING:
    import gradio as gr

# The browser itself refuses whatever lies elsewhere. Gradio compiles templates in the page, hence unsafe-eval.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
MAX_UPLOAD = "32mb"

logger = logging.getLogger(__name__)


class GuardHeaders:
    """Adds `HEADERS` to every response; streams pass through as they come."""

    def __init__(self, app: Callable[..., Any]):
        self._app = app

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """One request (ASGI)."""

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def serve(build: Callable[[], gr.Blocks], page: PageArguments) -> None:
    """Serve until Ctrl-C.

    Args:
        build: imports Gradio and makes the page.
        page: where.
    """
    with tempfile.TemporaryDirectory(prefix="llava-rlhf-page-") as folder:
        # Gradio hands out whatever lies in its upload folder, which by default all users of the machine share.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        blocks = build()
        if not page.local:
            logger.warning("the page is open to every machine that reaches %s, without a password", page.host)
        blocks.queue(max_size=64)
        blocks.launch(
            server_name=page.host,
            server_port=page.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=MAX_UPLOAD,
            allowed_paths=[folder],  # not empty, or GRADIO_ALLOWED_PATHS would be asked
            app_kwargs={
                "middleware": [
                    Middleware(TrustedHostMiddleware, allowed_hosts=page.hosts),
                    Middleware(GuardHeaders),
                ]
            },
            **look(),
        )
        # On a line of its own: a progress bar may stand where the cursor is.
        print(f"\nopen http://{page.host}:{page.port} (Ctrl-C ends)", flush=True)
        blocks.block_thread()


def look() -> dict[str, Any]:
    """Theme, styles and keys of all pages, with the fonts of the system: nothing is fetched."""
    import gradio as gr

    here = files("llava_rlhf.pages")
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
    )

    def read(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    scripts = [read(name) for name in ("keys.js", "zoom.js")]
    return {
        "theme": theme,
        "css": "".join(read(name) for name in ("pages.css", "labelling.css")),
        "head": "".join(f"<script>{script}</script>" for script in scripts),
    }
