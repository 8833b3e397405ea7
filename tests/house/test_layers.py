"""The rules of the house, read from the source of every file: who imports whom, and how long things may be.

The checks are functions of source text, and each is first shown a text that breaks its rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.rooms import ROOT, imported_modules

OUR_PACKAGES = {"data_utils", "models", "llava_rlhf"}
SOURCE_FOLDERS = [*sorted(OUR_PACKAGES), "scripts", "tests", "benchmarks", "docs", "examples", ".ci"]
FORBIDDEN_IMPORTS = {
    "data_utils": {"models", "llava_rlhf"},
    "models": {"data_utils", "llava_rlhf"},
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
# "path::function" -> why it must be longer. A reason that no longer applies is an error too.
LONG_FUNCTIONS: dict[str, str] = {}
# Methods that a library calls by these names, whose contract is written there.
FRAMEWORK_METHODS = {"forward", "compute_loss"}


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_violations(path: str, source: str) -> set[str]:
    """Imports that the layer of the file at ``path`` (relative to the root) must not have."""
    modules = imported_modules(source, ".".join(path.split("/")[:-1]))
    folder = path.split("/")[0]
    if path.startswith("llava_rlhf/functional/"):
        allowed = {"torch", *sys.stdlib_module_names}
        own = "llava_rlhf.functional"
        return {
            m for m in modules if m.split(".")[0] not in allowed and m != own and not m.startswith(own + ".")
        }
    forbidden = FORBIDDEN_IMPORTS.get(folder, set()) | ({"tests"} if folder in OUR_PACKAGES else set())
    return {module for module in modules if module.split(".")[0] in forbidden}


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function with its dotted name inside the file, nested ones included."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield prefix + child.name, child
            yield from visit(child, f"{prefix}{child.name}." if named else prefix)

    return visit(ast.parse(source), "")


def long_functions(path: str, source: str) -> dict[str, int]:
    lengths = {f"{path}::{name}": node.end_lineno - node.lineno + 1 for name, node in functions(source)}
    return {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


def bare_excepts(source: str) -> list[int]:
    return [
        n.lineno for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ExceptHandler) and n.type is None
    ]


def undocumented(source: str) -> list[str]:
    """Public functions and classes of the module, and public methods of public classes, without a docstring."""
    missing = []
    for node in ast.parse(source).body:
        if not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ) or node.name.startswith("_"):
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        methods = [m for m in members if isinstance(m, (ast.FunctionDef, ast.AsyncFunctionDef))]
        public = [m for m in methods if not m.name.startswith("_") and m.name not in FRAMEWORK_METHODS]
        missing += [node.name] if ast.get_docstring(node) is None else []
        missing += [f"{node.name}.{m.name}" for m in public if ast.get_docstring(m) is None]
    return missing


def image_opens(source: str) -> list[int]:
    """Lines that call ``Image.open``."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    opens = [f for f in calls if isinstance(f, ast.Attribute) and f.attr == "open"]
    return [f.lineno for f in opens if ast.unparse(f.value).split(".")[-1] == "Image"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data_utils/facts.py", "from models.vlm import load"),
        ("data_utils/facts.py", "def f():\n    import llava_rlhf.ppo.trainer"),
        ("models/roles.py", "import data_utils"),
        ("models/roles.py", "from llava_rlhf.functional.kl import kl_estimate"),
        ("llava_rlhf/functional/kl.py", "import numpy as np"),
        ("llava_rlhf/functional/kl.py", "from llava_rlhf.runs.arguments import A"),
        ("llava_rlhf/functional/kl.py", "from .. import ppo"),
        ("llava_rlhf/functional/kl.py", "from ..arguments import A"),
        ("llava_rlhf/ppo/trainer.py", "from tests.tools import helper"),
    ],
)
def test_a_forbidden_import_is_seen(path, source):
    assert layer_violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "data_utils/facts.py",
            "import re, torch\nfrom data_utils.schema import AnswerType\nfrom .schema import Turn",
        ),
        ("llava_rlhf/functional/kl.py", "import math\nfrom torch import nn\nfrom .masked import f"),
        ("llava_rlhf/functional/kl.py", "from llava_rlhf.functional import masked"),
        (
            "llava_rlhf/ppo/trainer.py",
            "import data_utils.facts, models.vlm\nfrom llava_rlhf.functional.kl import f",
        ),
    ],
)
def test_an_allowed_import_is_let_through(path, source):
    assert layer_violations(path, source) == set()


def test_the_other_checks_see_what_they_look_for():
    body = "\n".join(["    x = 1"] * MAX_FUNCTION_LINES)
    source = f"class A:\n  def f(self):\n{body}\n"
    assert long_functions("a.py", source) == {"a.py::A.f": MAX_FUNCTION_LINES + 1}
    assert long_functions("a.py", source.replace("    x = 1\n", "", 1)) == {}
    assert bare_excepts("try:\n    f()\nexcept:\n    pass") == [3]
    assert bare_excepts("try:\n    f()\nexcept OSError:\n    pass") == []
    assert undocumented('def f():\n    pass\nclass A:\n    """A."""\n    def g(self):\n        pass') == [
        "f",
        "A.g",
    ]
    assert undocumented('def _f():\n    pass\ndef f():\n    """F."""\n') == []
    assert image_opens("import PIL.Image\nPIL.Image.open(f)\nImage.open(g)\nopen(h)") == [2, 3]


@pytest.mark.parametrize("folder", ["data_utils", "models", "llava_rlhf", "llava_rlhf/functional"])
def test_layers(folder):
    files = python_files(folder)
    assert files, f"{folder}/ has no Python file: the test would look at nothing"
    found = {name_of(path): layer_violations(name_of(path), path.read_text("utf-8")) for path in files}
    assert {name: modules for name, modules in found.items() if modules} == {}


def test_one_place_opens_images():
    opening = {name_of(path) for path in python_files(*OUR_PACKAGES) if image_opens(path.read_text("utf-8"))}
    assert opening <= {"data_utils/images.py"}


def test_no_file_is_too_long():
    files = [*python_files(*SOURCE_FOLDERS), *ROOT.glob("*.py")]
    files += [path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.sh")]
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_too_long_without_a_reason():
    found: dict[str, int] = {}
    for path in [*python_files(*SOURCE_FOLDERS), *ROOT.glob("*.py")]:
        found |= long_functions(name_of(path), path.read_text("utf-8"))
    assert {name: lines for name, lines in found.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "the allow-list names a function that is short enough now"


def test_no_bare_except():
    files = [*python_files(*SOURCE_FOLDERS), *ROOT.glob("*.py")]
    found = {name_of(path): bare_excepts(path.read_text("utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_public_names_have_docstrings():
    found = {name_of(path): undocumented(path.read_text("utf-8")) for path in python_files(*OUR_PACKAGES)}
    assert {name: missing for name, missing in found.items() if missing} == {}
