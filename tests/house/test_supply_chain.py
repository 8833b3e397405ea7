"""No code comes with data: no pickle is unpickled, no foreign code is run, and what is written is safetensors."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data_utils", "models", "llava_rlhf", "benchmarks", "scripts", "examples")
FORBIDDEN_IMPORTS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "np.fromfile"}
# Where tensors are pickled: states that are read back with weights_only=True, and adapters for the code of 2023.
MAY_PICKLE = {
    "llava_rlhf/supervised/role_trainer.py",
    "llava_rlhf/ppo/checkpoints.py",
    "llava_rlhf/conversion/adapter_weights.py",
    "benchmarks/convert_memory.py",
}


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))] + [
        ROOT / "setup.py"
    ]


def faults(source: str) -> Iterator[str]:
    """What a file does that could run code which comes with data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            yield from (f"import {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS)
        if isinstance(node, ast.Call):
            yield from _call_faults(node)


def _call_faults(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if name in FORBIDDEN_CALLS:
        yield name
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    for flag in ("trust_remote_code", "allow_pickle", "shell"):
        if given.get(flag, "False") != "False":
            yield f"{name} with {flag}"
    auto = name in ("AutoConfig.from_pretrained", "AutoTokenizer.from_pretrained")
    if auto and given.get("trust_remote_code") != "False":
        yield f"{name} without trust_remote_code=False"
    model = name.endswith(("ForConditionalGeneration.from_pretrained", "model_class().from_pretrained"))
    if model and given.get("use_safetensors") != "True":
        yield f"{name} without use_safetensors=True"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib.externals import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=flag)",
        "AutoConfig.from_pretrained(path)",
        "LlavaForConditionalGeneration.from_pretrained(path)",
        "family.model_class().from_pretrained(path)",
        "subprocess.run(word, shell=True)",
        "eval(text)",
    ],
)
def test_the_check_sees_what_it_looks_for(source):
    assert len(list(faults(source))) == 1
    assert not list(faults("torch.load(path, weights_only=True); model.eval(); np.load(path)"))


def test_no_source_runs_code_that_comes_with_data():
    assert len(sources()) > 60
    found = {
        str(path.relative_to(ROOT)): list(faults(path.read_text(encoding="utf-8"))) for path in sources()
    }
    assert {path: what for path, what in found.items() if what} == {}


def test_tensors_are_pickled_only_where_that_is_meant():
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.save"
    }
    assert found <= MAY_PICKLE


def requirements(name: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def test_every_requirement_has_a_lower_bound_and_those_with_changing_interfaces_an_upper():
    bounded = set()
    for item in [*requirements("requirements.txt"), *requirements("requirements-dev.txt")]:
        operators = {spec.operator for spec in item.specifier}
        assert ">=" in operators and operators <= {">=", "<"} and item.url is None, item
        bounded |= {item.name} if "<" in operators else set()
    assert bounded >= {
        "transformers",
        "peft",
        "accelerate",
        "deepspeed",
        "bitsandbytes",
        "datasets",
        "tokenizers",
    }


def test_setup_installs_the_list_of_requirements(tmp_path):
    code = (
        "import setuptools, json; setuptools.setup = lambda **kw: print(json.dumps(kw['install_requires']))\n"
    )
    code += f"exec(compile(open({str(ROOT / 'setup.py')!r}).read(), {str(ROOT / 'setup.py')!r}, 'exec'))"
    code = code.replace("exec(", f"__file__ = {str(ROOT / 'setup.py')!r}\nexec(", 1)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    listed = {str(Requirement(item)) for item in ast.literal_eval(done.stdout)}
    assert listed == {str(item) for item in requirements("requirements.txt")}
