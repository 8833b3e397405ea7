"""The rooms of llava_rlhf/: programs in its root, arrows downwards, a sign at every door, tests beside them."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house import rooms
from tests.house.rooms import PACKAGE, ROOMS, ROOT

# Rooms whose tests lie elsewhere, and where.
TESTED_ELSEWHERE = {"pages": "browser"}
# What a program is in a room of its own: the tiny world is made by several.
PROGRAM = re.compile(r'^if __name__ == "__main__":$', re.MULTILINE)


def upward(path: str, source: str) -> set[str]:
    """Rooms above that of the file at ``path`` (relative to the repository) which its source imports from."""
    room = rooms.room_of(ROOT / path)
    above = ROOMS[: ROOMS.index(room)]
    return rooms.rooms_entered(source, path.rpartition("/")[0].replace("/", ".")) & set(above)


def programs_imported(source: str) -> set[str]:
    """Programs that a source imports."""
    names = {f"{PACKAGE}.{path.stem}" for path in rooms.programs()}
    return names & rooms.imported_modules(source)


def sign(source: str) -> list[str]:
    """What a room's ``__init__`` fails to say: what is not there, where to start."""
    text = ast.get_docstring(ast.parse(source)) or ""
    wanted = {"what is not here": "Not here:", "where to start": "Start with `"}
    return [name for name, words in wanted.items() if words not in text]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llava_rlhf/runs/parsing.py", "from llava_rlhf.ppo.arguments import PPOArguments"),
        ("llava_rlhf/runs/parsing.py", "def f():\n    import llava_rlhf.ppo.trainer"),
        ("llava_rlhf/assembly/roles.py", "from llava_rlhf import supervised"),
        ("llava_rlhf/assembly/roles.py", "from ..ppo import rollout"),
    ],
)
def test_an_import_upwards_is_seen(path, source):
    assert upward(path, source)


def test_an_import_downwards_is_let_through():
    source = "from llava_rlhf.runs.parsing import f\nfrom llava_rlhf.ppo import rollout\nimport models.vlm"
    assert upward("llava_rlhf/ppo/trainer.py", source) == set()


def test_the_other_checks_see_what_they_look_for():
    assert programs_imported("from llava_rlhf import evaluate") == {"llava_rlhf.evaluate"}
    assert programs_imported("from llava_rlhf.evaluate import run") == {"llava_rlhf.evaluate"}
    assert programs_imported("from llava_rlhf.evaluation import tables") == set()
    assert sign('"""A room."""') == ["what is not here", "where to start"]
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert rooms.floors(chain) == {"a": 3, "b": 2, "c": 1}
    assert rooms.shortened(chain) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_the_root_holds_programs_only():
    assert [path.name for path in rooms.programs() if not PROGRAM.search(path.read_text("utf-8"))] == []


def test_nothing_imports_a_program():
    found = {
        path.relative_to(ROOT).as_posix(): programs_imported(path.read_text("utf-8"))
        for path in rooms.package_files()
    }
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_every_folder_is_a_room():
    folders = {
        path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert folders == set(ROOMS)


def test_rooms_import_downwards_only():
    files = [path for path in rooms.package_files() if rooms.room_of(path)]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    found = {name: upward(name, path.read_text("utf-8")) for name, path in zip(names, files, strict=True)}
    assert {name: above for name, above in found.items() if above} == {}


def test_nine_floors_are_enough():
    levels = rooms.floors(rooms.arrows())
    rooms_only = {name: level for name, level in levels.items() if name not in rooms.LAYERS}
    assert max(rooms_only.values()) <= 9


@pytest.mark.parametrize("room", [f"{PACKAGE}/{room}" for room in ROOMS] + list(rooms.LAYERS))
def test_a_sign_at_every_door(room):
    source = (ROOT / room / "__init__.py").read_text("utf-8")
    assert sign(source) == []
    start = re.search(r"Start with `(\w+)`", ast.get_docstring(ast.parse(source)))
    assert start is not None
    assert (ROOT / room / f"{start[1]}.py").is_file()


def test_tests_mirror_the_rooms():
    folders = {path.name for path in (ROOT / "tests" / PACKAGE).iterdir() if any(path.glob("test_*.py"))}
    assert folders == set(ROOMS) - set(TESTED_ELSEWHERE)
    assert all((ROOT / "tests" / folder).is_dir() for folder in [*TESTED_ELSEWHERE.values(), *rooms.LAYERS])
    programs = {f"test_{path.stem}.py" for path in rooms.programs()}
    about_all = {"test_refusals.py", "test_late_mistakes.py"}
    loose = {path.name for path in (ROOT / "tests" / PACKAGE).glob("test_*.py")}
    assert loose - programs == about_all


def test_the_picture_is_of_today():
    text = rooms.DOCUMENT.read_text("utf-8")
    assert rooms.redrawn(text) == text, "draw it again: python -m tests.house.rooms"


def missing_names(row: str) -> list[str]:
    """What a row of a table names in backticks and is not there: files, and names that none of its files holds."""
    words = re.findall(r"`([^`]+)`", row)
    paths = [word for word in words if re.fullmatch(r"[\w./-]+\.(py|txt|sh|md)|[\w./-]+/", word)]
    places = {word: [folder / word for folder in (ROOT, ROOT / PACKAGE)] for word in paths}
    sources = [place.read_text("utf-8") for found in places.values() for place in found if place.is_file()]
    names = [word for word in words if re.fullmatch(r"\w+(\.\w+)?", word) and re.search(r"[A-Z_]", word)]
    lost = [word for word in names if not any(word.rpartition(".")[2] in source for source in sources)]
    return [word for word, found in places.items() if not any(place.exists() for place in found)] + lost


def test_a_missing_name_is_seen():
    row = "| `models/vlm.py`, `runs/nowhere.py` | `no_such_function`, `VisionLanguageModel`, `reward` |"
    assert missing_names(row) == ["runs/nowhere.py", "no_such_function"]


def test_the_page_names_what_is_there():
    rows = [line for line in rooms.DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    assert {row: missing_names(row) for row in rows if missing_names(row)} == {}
