"""What the comparison page refuses before it loads a model."""

from __future__ import annotations

import socket

import pytest
from PIL import Image

from llava_rlhf import demo
from tests.support.tiny_data import command_line
from tests.support.tiny_models import save_unloadable_copy


@pytest.mark.parametrize(
    ("checkpoints", "changes", "message"),
    [
        (["{base}"], {}, "write NAME=BASE"),
        (["a={base},"], {}, "write NAME=BASE"),
        (["a={base}", "a={base}"], {}, "not all different"),
        (["a={base},nowhere"], {}, "holds no policy adapter"),
        (["a={base}"], {"reward_model_name_or_path": "nowhere"}, "is not a reward model"),
        (["a={base}"], {"reward_base_model_name": "nowhere"}, "needs --reward_model_name_or_path"),
        (["a={base}"], {"port": 0}, "--port 0"),
        (["a={base}"], {"host": "203.0.113.7"}, "can't listen there"),
        (["a={base}"], {"version": "v2"}, "invalid choice"),
    ],
)
def test_refused(checkpoints, changes, message, tiny_base, tmp_path):
    base = save_unloadable_copy(tiny_base, tmp_path / "unloadable")
    named = [text.format(base=base) for text in checkpoints]
    argv = command_line(**{"version": "tiny", "response_len": 12, "use_cpu": True, **changes})
    with pytest.raises(ValueError, match=message):
        demo.prepare(["--checkpoints", *named, *argv])


def test_a_port_that_is_taken_is_refused(tiny_base):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        argv = command_line(version="tiny", response_len=12, port=taken.getsockname()[1])
        with pytest.raises(ValueError, match="choose another port"):
            demo.prepare(["--checkpoints", f"a={tiny_base}", *argv])


@pytest.mark.parametrize("seed", [-1, 1e30])
def test_a_seed_that_no_generator_takes_is_said(seed):
    gr = pytest.importorskip("gradio")
    from llava_rlhf.interactive.answering_models import LoadedModels
    from llava_rlhf.pages.comparison_page import Comparison

    with pytest.raises(gr.Error, match="seed must be from 0"):
        next(Comparison(LoadedModels([], None)).compare(None, "what?", None, 0.0, seed))


def test_a_picture_that_nobody_uploaded_is_not_looked_at(tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio")
    from llava_rlhf.interactive.answering_models import LoadedModels
    from llava_rlhf.pages.comparison_page import Comparison

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    compare = Comparison(LoadedModels([], None)).compare
    for folder in ("uploads", "."):
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "picture.png")
    (tmp_path / "uploads" / "link.png").symlink_to(tmp_path / "picture.png")
    assert list(compare(str(tmp_path / "uploads" / "picture.png"), "what?", None, 0.0, 0)) == []
    for name in ("picture.png", "uploads/../picture.png", "uploads/link.png"):
        with pytest.raises(gr.Error, match="Picture: upload it"):
            next(compare(str(tmp_path / name), "what?", None, 0.0, 0))
