"""Every flag does something: each field of an argument class is read somewhere in the source.

Told by the syntax alone. A read is `receiver.field` in a module that speaks of the class (or of one derived from it),
where the receiver has a name that stands for the class somewhere: an annotated parameter, attribute or result, or what
a parser returned. What a class only checks when it is made, or only writes, is not read.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data_utils", "models", "llava_rlhf")
# Fields of `transformers.TrainingArguments` with a default of ours: the Trainer reads them.
READ_BY_THE_TRAINER = {"LlavaTrainingArguments.ddp_find_unused_parameters"} | {
    f"OurTrainingFlags.{name}" for name in ("learning_rate", "max_grad_norm", "logging_steps", "report_to")
}
FOR_HELP_ALONE = "TrainingFlags."  # its fields are those of `transformers.TrainingArguments` once more


def argument_classes(tree: ast.AST) -> Iterator[tuple[ast.ClassDef, list[str]]]:
    """Classes whose fields have help texts, with the names of those fields."""
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and item.value is not None]
        flags = [ast.unparse(item.target) for item in fields if "'help'" in ast.unparse(item.value)]
        if flags:
            yield node, flags


def names_by_class(nodes: list[ast.AST], classes: set[str]) -> dict[str, set[str]]:
    """Class → names that stand for one of its objects somewhere."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    returned = {}
    for node in nodes:
        if isinstance(node, ast.arg) and node.annotation is not None:
            names[ast.unparse(node.annotation)].add(node.arg)
        elif isinstance(node, ast.AnnAssign):
            names[ast.unparse(node.annotation)].add(last_name(node.target))
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            returned[node.name] = ast.unparse(node.returns)
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            targets = {
                name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
            called = last_name(node.value.func)
            for kind in classes if called == "parse" else {returned.get(called)} & classes:
                names[kind] |= targets
    return names


def last_name(node: ast.AST) -> str:
    return ast.unparse(node).split(".")[-1]


def reads(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, str]]:
    """(receiver, attribute) of every attribute that is read; `self` is written as the name of its class."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef) and child.name == "__post_init__":
            continue
        if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            receiver = last_name(child.value)
            yield inside if receiver == "self" else receiver, child.attr
        yield from reads(child, child.name if isinstance(child, ast.ClassDef) else inside)


def mentioned(tree: ast.AST) -> set[str]:
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    return names | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def unread(sources: list[str]) -> set[str]:
    """`Class.field` of every field that no source reads."""
    trees = [ast.parse(source) for source in sources]
    found = [pair for tree in trees for pair in argument_classes(tree)]
    family = {node.name: {node.name} for node, _ in found}  # a class and those derived from it
    bases = {node.name: {ast.unparse(base) for base in node.bases} & family.keys() for node, _ in found}
    for node, _ in found:
        for base in bases[node.name]:
            family[base].add(node.name)
    names = names_by_class([node for tree in trees for node in ast.walk(tree)], set(family))
    modules = [(mentioned(tree), set(reads(tree))) for tree in trees]
    missing = set()
    for node, fields in found:
        kinds = family[node.name]
        kinds = kinds | bases[node.name]  # methods of a base read what is declared anew
        receivers = kinds.union(*(names[kind] for kind in family[node.name]))
        read = {pair for words, pairs in modules if words & kinds for pair in pairs}
        missing |= {f"{node.name}.{name}" for name in fields if not any((r, name) in read for r in receivers)}
    return missing


FIELD = '    {}: int = field(metadata={{"help": "a flag"}})\n'
SETTINGS = "class Settings:\n" + "".join(
    map(FIELD.format, ["used", "by_itself", "only_checked", "of_another", "only_written"])
)
METHODS = """
    def __post_init__(self):
        if self.only_checked < 0:
            raise ValueError
    def twice(self):
        return 2 * self.by_itself
def run(settings: Settings, other: Other):
    settings.only_written = settings.used + other.of_another
"""


def test_an_unread_flag_is_seen():
    assert unread([SETTINGS + METHODS]) == {
        f"Settings.{name}" for name in ("only_checked", "of_another", "only_written")
    }


def test_a_flag_that_is_declared_anew_is_read_by_what_it_inherits():
    base = "class Settings:\n" + FIELD.format("used") + "    def twice(self):\n        return 2 * self.used\n"
    derived = "class More(Settings):\n" + FIELD.format("used") + FIELD.format("new")
    assert unread([base, derived]) == {"More.new"}


def test_what_a_parser_returned_counts_where_the_class_is_spoken_of():
    settings = "class Settings:\n" + FIELD.format("used")
    parse = "(mine,) = StrictParser(({},)).parse(argv)\nprint({}.used)\n"
    assert unread([settings, parse.format("Settings", "mine")]) == set()
    assert unread([settings, parse.format("Settings", "yours")]) == {"Settings.used"}
    assert unread([settings, parse.format("Others", "mine")]) == {"Settings.used"}


def test_every_flag_is_read():
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    sources = [path.read_text(encoding="utf-8") for path in files]
    flags = [
        f"{node.name}.{name}"
        for s in sources
        for node, fields in argument_classes(ast.parse(s))
        for name in fields
    ]
    assert len(flags) > 100 and "PPOArguments.cliprange" in flags
    assert {flag for flag in unread(sources) if not flag.startswith(FOR_HELP_ALONE)} == READ_BY_THE_TRAINER


def test_every_program_checks_images_as_its_flags_say():
    """Whoever reads rows with images of a user's folder hands on --verify_images and --follow_image_links."""
    readers = {"RowSettings", "RowFilter"}
    builders = {
        f"build_{kind}" for kind in ("dialogues", "preferences", "answer_pairs", "prompts", "answers")
    }
    seen, wrong = set(), []
    for path in sorted((ROOT / "llava_rlhf").rglob("*.py")):
        source = path.read_text()
        for call in [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]:
            names = {node.id for node in ast.walk(call.func) if isinstance(node, ast.Name)}
            # The comparison of an export has no such flags.
            if not names & (readers | builders) or path.name == "parity.py":
                continue
            seen.add(path.stem)
            # A builder gets what `row_settings`, itself a reader, makes of the flags.
            hands_on = "data.image_checks()" in ast.unparse(call) or (
                not names & readers and "row_settings(data, text" in source
            )
            wrong += [] if hands_on else [f"{path}:{call.lineno}"]
    assert wrong == []
    assert seen >= {"answering", "initialize_policy_model", "score", "sources"}
    assert seen >= {"train_reward_model", "preparation", "roles"}
