"""A user's own folder or file named `models` or `data_utils` never hides ours, nor do we lose theirs without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiers import tiered

ROOT = Path(__file__).resolve().parents[2]
# As `pip install --editable` makes the packages known: behind whatever lies on the path.
EDITABLE = f"""
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("llava_rlhf", "models", "data_utils"):
            return spec_from_file_location(name, f"{ROOT}/{{name}}/__init__.py")

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
"""
OURS = """
from data_utils.conversation import TEMPLATES
from models.settings import LoraSettings
import data_utils, models
from pathlib import Path
assert [Path(one.__file__).parents[1] for one in (data_utils, models)] == [Path(sys.argv[1])] * 2
"""
LAYOUTS = ("package", "folder", "file")


class Place:
    """A user's directory, and what Python says there."""

    def __init__(self, folder: Path, layout: str):
        self.folder = folder / "work"
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(EDITABLE)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
            "PYTHONPATH": str(folder / "site"),
            "PYTHON": sys.executable,
        }
        self.folder.mkdir()
        for name in ("models", "data_utils"):
            if layout == "file":
                (self.folder / f"{name}.py").write_text("theirs = 1\n")
                continue
            (self.folder / name).mkdir()
            # `settings` and `conversation` are names that ours have too.
            for module in ("resnet", "settings", "conversation"):
                (self.folder / name / f"{module}.py").write_text(f"theirs = '{module}'\n")
            if layout == "package":
                (self.folder / name / "__init__.py").write_text("from .resnet import theirs\n")

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def script(self, text: str) -> str:
        (self.folder / "script.py").write_text(text)
        return self.run(sys.executable, "script.py", ROOT)


@pytest.fixture(params=tiered(LAYOUTS, quick=["package"]))
def place(request, tmp_path) -> Place:
    return Place(tmp_path, request.param)


def test_python_m_finds_ours(place):
    assert "--reward_prompt_file" in place.run(
        sys.executable, "-m", "llava_rlhf.train_reward_model", "--help"
    )


def test_a_script_of_ours_finds_ours(place):
    place.environment["LAUNCHER"] = "none"
    script = ROOT / "scripts" / "tiny" / "train_reward_model.sh"
    assert "--reward_prompt_file" in place.run("bash", script, "--help")


def test_import_finds_ours(place):
    place.script(f"import sys, llava_rlhf\n{OURS}")


def test_import_finds_ours_where_theirs_was_imported_before(place):
    theirs = "import sys, models as theirs_before, data_utils\n"
    place.script(f"{theirs}import llava_rlhf\n{OURS}assert theirs_before is not models\n")


@pytest.mark.parametrize("layout", ["package", "folder"])
@pytest.mark.parametrize(
    "first", ["import llava_rlhf", "from models.resnet import theirs\nimport llava_rlhf"]
)
def test_modules_that_only_they_have_are_still_theirs(layout, first, tmp_path):
    script = "import models.resnet\nassert models.resnet.theirs == 'resnet'\n"
    Place(tmp_path, layout).script(f"{first}\nfrom models.settings import LoraSettings\n{script}")


def test_what_was_imported_from_theirs_goes_on_working(tmp_path):
    before = (
        "import sys, models.settings, models.resnet\nold, cached = models, models.resnet\nimport llava_rlhf\n"
    )
    after = "assert old.settings.theirs == 'settings'\nimport models.resnet\nassert sys.modules['models.resnet'] is cached\n"
    Place(tmp_path, "package").script(before + OURS + after)
