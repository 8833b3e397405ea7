"""Several runs of the programs one after another in the same processes, which are then started once for all of them."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from accelerate.state import AcceleratorState


def write_turns(file: Path, turns: list[tuple[str, list[str]]], config: Path | None = None) -> list[str]:
    """(program, argv) of each run → the command line of this module; `config` of DeepSpeed stands in all of them."""
    engine = [] if config is None else ["--deepspeed", str(config)]
    file.write_text(json.dumps([(program, [*argv, *engine]) for program, argv in turns]))
    return [str(file), *engine]


def prepare(argv: list[str]) -> list[tuple[str, list[str]]]:
    """What `write_turns` wrote. A run is prepared when those before are done, as it may start from what they wrote."""
    return json.loads(Path(argv[0]).read_text())


def run(turns: list[tuple[str, list[str]]]) -> None:
    """All of them; in between accelerate forgets the engine. The processes stay connected, whatever a program wants.

    To meet again at the same port is a race: one that is faster finds the others where they are about to leave.
    """
    close, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda *_: None
    for program, argv in turns:
        print("in turn:", program, *argv, file=sys.stderr)
        module = import_module(program)
        module.run(module.prepare(argv))
        AcceleratorState._reset_state()
    torch.distributed.destroy_process_group = close
