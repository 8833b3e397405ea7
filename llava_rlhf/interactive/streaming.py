"""Tokens → text that grows, from the thread that samples to the one that shows it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from torch import Tensor
from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoding writes for half a character


class Stopped(Exception):
    """Raised in the sampling thread when nobody listens any more."""


class GrowingText:
    """The text of one answer while its tokens arrive.

    All tokens are decoded again each time: pieces of a word, and bytes of one character, only make sense together.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: tuple[int, ...]):
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self.ids: list[int] = []
        self.ended = False

    def add(self, token: int) -> str | None:
        """The text so far; None while it ends in the middle of a character, and after the stop token."""
        if self.ended:
            return None
        self.ids.append(token)
        self.ended = token in self._stop_ids
        text = self.text()
        return None if text.endswith(REPLACEMENT) else text

    def text(self) -> str:
        """What `answer_prompts` would write for these tokens."""
        return self._tokenizer.decode(self.ids, skip_special_tokens=True).strip()


def stream(work: Callable[[Callable[[Tensor, Tensor], None]], None], growing: GrowingText) -> Iterator[str]:
    """Yield the text of one answer each time it has grown; whatever `work` raises is raised here.

    Args:
        work: samples one row, and calls what it is given with rows and tokens (see `models.generation.sample`). It runs in
            a thread of its own, so that its contexts (adapter in use, no gradients) never leak into the caller; when
            the caller leaves, the sampling ends with the next token.
        growing: collects the tokens.
    """
    texts: queue.Queue[str | None] = queue.Queue()
    left = threading.Event()
    failure: list[BaseException] = []

    def on_tokens(rows: Tensor, token: Tensor) -> None:
        if left.is_set():
            raise Stopped
        text = growing.add(int(token[0])) if len(token) else None
        if text is not None:
            texts.put(text)

    def run() -> None:
        try:
            work(on_tokens)
        except Stopped:
            pass
        except BaseException as error:
            failure.append(error)
        finally:
            texts.put(None)

    thread = threading.Thread(target=run, name="answering", daemon=True)
    thread.start()
    try:
        while (text := texts.get()) is not None:
            yield text
    finally:
        left.set()
        thread.join()
    if failure:
        raise failure[0]
