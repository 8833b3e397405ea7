"""Processes that are forked from a server which has loaded everything once, so that a program in them starts at once."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext

# deepspeed would look for a GPU, and several threads a process only wait for each other on two cores.
QUIET_CPU = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
# What a run of a trainer on a tiny base has loaded at its end. The last freezes the others. One that is not installed is
# passed over.
LOADED = (
    "transformers.trainer",
    "transformers.integrations.deepspeed",
    "transformers.models.llava.modeling_llava",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "llava_rlhf.supervised.training",
    "llava_rlhf.supervised.reward_trainer",
    "llava_rlhf.supervised.sft_trainer",
    "llava_rlhf.ppo.preparation",
    "llava_rlhf.ppo.trainer",
    "llava_rlhf.memory_planning.programs",
    "llava_rlhf.train_reward_model",
    "llava_rlhf.initialize_policy_model",
    "llava_rlhf.train_rl_model",
    "tests.support.frozen",
)


def forked_processes() -> ForkServerContext:
    """The context whose `Process` forks from the server, which starts with the first one."""
    os.environ.update(QUIET_CPU)  # read by the server when it starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    return context
