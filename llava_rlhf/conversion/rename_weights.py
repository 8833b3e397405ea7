"""Give the weights of a base the names of published models, which vLLM reads; in place, their values stay bit for bit.

python -m llava_rlhf.conversion.rename_weights --folder runs/my_base
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_rlhf.runs.parsing import StrictParser, run_program
from models.base_check import check_base
from models.base_files import read_family


@dataclass
class RenameArguments:
    """Whose weights."""

    _argument_group_name = "rename"

    folder: str = field(metadata={"help": "The base; its files are written anew, one by one."})


ARGUMENTS = (RenameArguments,)


def prepare(argv: Sequence[str]) -> RenameArguments:
    """Parse and check the base. Raises ValueError when it is none."""
    (arguments,) = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    check_base(arguments.folder)
    return arguments


def run(arguments: RenameArguments) -> None:
    """Rename."""
    from llava_rlhf.conversion.published_names import publish_names

    publish_names(Path(arguments.folder), read_family(arguments.folder).published_name)
    print(f"{arguments.folder}: its weights have their published names")


if __name__ == "__main__":
    run_program(prepare, run)
