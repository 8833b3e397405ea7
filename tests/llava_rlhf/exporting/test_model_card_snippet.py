"""What a model card prints is run word for word, in a process that can't import this project, and answers as we do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llava_rlhf import answer_prompts
from tests.llava_rlhf.exporting.exports import export
from tests.support.tiers import tiered
from tests.support.tiny_data import command_line

QUESTION = "What is in the image?"
# Runs the printed program once a picture. The rest is there to take this project away: `-I` leaves out the working
# directory and PYTHONPATH, but not what an editable install put into site-packages.
RUNNER = """
import contextlib, importlib.util, io, json, sys
from pathlib import Path
sys.meta_path[:] = [f for f in sys.meta_path if "llava_rlhf" not in getattr(f, "__module__", "")]
sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "llava_rlhf").is_dir()]
for name in ("llava_rlhf", "models", "data_utils"):
    assert importlib.util.find_spec(name) is None, name
program, pictures = Path(sys.argv[1]).read_text(), sys.argv[2:]
answers = []
for picture in pictures:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program.replace("PICTURE", picture), "snippet", "exec"), {"__name__": "__main__"})
    answers.append(printed.getvalue())
assert not any(name.split(".")[0] in ("llava_rlhf", "models", "data_utils") for name in sys.modules)
print(json.dumps(answers))
"""


def printed_program(folder: Path) -> str:
    """The one block of Python in a model card, with the folder put in."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "PATH_OF_THIS_FOLDER" in program and program.count('"PICTURE"') == 1
    assert "llava_rlhf" not in program
    return program.replace("PATH_OF_THIS_FOLDER", str(folder))


def strangers_answers(folder: Path, pictures: list[Path], scratch: Path) -> list[str]:
    (scratch / "program.py").write_text(printed_program(folder))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER, scratch / "program.py", *pictures],
        capture_output=True,
        text=True,
        cwd=scratch,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [answer.strip() for answer in json.loads(done.stdout.splitlines()[-1])]


def our_answers(
    base: Path, adapter: Path | None, mode: str, pictures: list[Path], scratch: Path
) -> list[str]:
    rows = [
        {
            "id": picture.name,
            "image": picture.name,
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": ""},
            ],
        }
        for picture in pictures
    ]
    prompts, output = scratch / "prompts.json", scratch / f"{mode}.jsonl"
    prompts.write_text(json.dumps(rows))
    settings = {} if adapter is None else {"adapter": adapter}
    argv = command_line(
        base_model_name=base,
        dataset_path=prompts,
        image_folder=pictures[0].parent,
        version="tiny",
        image_aspect_ratio=mode,
        response_len=256,
        output_file=output,
        use_cpu=True,
        **settings,
    )
    answer_prompts.run(answer_prompts.prepare(argv))
    return [json.loads(line)["answer"] for line in output.read_text().splitlines()]


@pytest.fixture(scope="module")
def ours(exported, pictures, tmp_path_factory) -> list[str]:
    """The policy's answers, which would be others if pictures were made square in the other way."""
    scratch = tmp_path_factory.mktemp("ours")
    right = our_answers(exported.base, exported.run, exported.mode, pictures, scratch)
    other = {"pad": "square", "square": "pad"}[exported.mode]
    wrong = our_answers(exported.base, exported.run, other, pictures, scratch)
    assert sum(a != b for a, b in zip(right, wrong, strict=True)) > len(pictures) / 2
    return right


@pytest.mark.parametrize(
    ("exported", "kind"),
    tiered(
        [(mode, kind) for mode in ("pad", "square") for kind in ("merged", "adapter")],
        daily=[("pad", "merged"), ("square", "adapter")],
    ),
    indirect=["exported"],
)
def test_the_printed_program_answers_as_we_do(kind, exported, ours, pictures, tmp_path):
    assert strangers_answers(getattr(exported, kind), pictures, tmp_path) == ours


@pytest.mark.slow
def test_our_programs_answer_the_same_from_the_export(exported, ours, pictures, tmp_path):
    """They pad themselves, so the padding of the written processor must not come on top."""
    assert our_answers(exported.merged, None, exported.mode, pictures, tmp_path) == ours


@pytest.mark.nightly
def test_a_trained_policy_stops_where_ours_does(tiny_base, policy_run, pictures, tmp_path):
    """One that has learned to stop, from its real record."""
    merged = export(tiny_base, policy_run, tmp_path / "merged")
    ours = our_answers(tiny_base, policy_run, "pad", pictures, tmp_path)
    assert max(len(answer.split()) for answer in ours) < 200  # of 256 tokens
    assert strangers_answers(merged, pictures, tmp_path) == ours
