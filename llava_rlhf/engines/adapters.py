"""New weights on the servers, every step: written to a folder of their own, loaded under a new name, checked by one answer.

Never in place: servers keep what they have read of a prompt under the adapter's name and path, and would go on with that.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from llava_rlhf.engines.holders import Holders
from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.loading import (
    GRACE_SECONDS,
    MODELS,
    Said,
    Version,
    load_everywhere,
    unload,
    unload_everywhere,
)
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.probe import Probe, differences, fits
from llava_rlhf.engines.processes import from_main
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.save_errors import SaveError, explaining_failures
from llava_rlhf.runs.stopping import EngineError
from models.adapter_files import save_adapter
from models.roles import Policy

logger = logging.getLogger(__name__)


class ServedAdapter:
    """As `AdapterKeeper`: the policy's adapter, as it is in training.

    Args:
        policy: whose adapter it is.
        pool: of servers.
        folder: where versions are written, for this run alone.
        probe: the question.
        base: recorded in the adapter's folder.
    """

    def __init__(self, policy: Policy, pool: ServerPool, folder: Path, probe: Probe, base: str):
        self._policy, self._pool, self._folder, self._probe, self._base = policy, pool, folder, probe, base
        self._current: Version | None = None
        self._exact = policy.bank.vlm.compute_dtype == torch.float32
        self._holders = Holders(pool, probe)

    def deliver(self, step: int, until: float) -> str:
        """As `AdapterKeeper.deliver`."""
        bank, adapter = self._policy.bank, self._policy.adapter
        with bank.whole(adapter):
            version, said = from_main(lambda: self._bring(step, bank.state_dict_of(adapter), until))
        tables = {
            ids: self._probe.own_log_probs(self._policy, ids) for ids in {one.adapted.ids for one in said}
        }
        from_main(lambda: [self._compare(version, one, tables[one.adapted.ids]) for one in said])
        ids, table = next(iter(tables.items()))
        old = self._current
        self._current = Version(version.name, version.folder, version.empty, ids, table)
        self._holders.begin(one.url for one in said)
        from_main(lambda: self._retire(old))
        return version.name

    def shown(self, server: Server) -> bool:
        """As `AdapterKeeper.shown`."""
        return server.url in self._holders

    async def restore(self, server: Server) -> None:
        """As `AdapterKeeper.restore`."""
        version = self._current
        await self._holders.give(
            server, version, lambda said: self._compare(version, said, version.table, version.ids)
        )

    def end(self) -> None:
        """As `AdapterKeeper.end`."""
        old, self._current = self._current, None
        from_main(lambda: self._retire(old))
        with suppress(OSError):  # another process was faster, or it isn't empty
            self._folder.rmdir()

    def _bring(self, step: int, state: Mapping[str, Tensor], until: float) -> tuple[Version, list[Said]]:
        """Write the adapter and load it everywhere (main process)."""
        if self._current is None:
            self._clear()
        version = self._write(step, state)
        return version, load_everywhere(self._pool, version, self._probe, until)

    def _write(self, step: int, state: Mapping[str, Tensor]) -> Version:
        """Write the folder, whole or not at all."""
        digest = hashlib.sha256(str(self._folder).encode())
        for key in sorted(state):
            tensor = state[key].detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        name = f"policy-step{step + 1}-{digest.hexdigest()[:16]}"
        folder = self._folder / name
        empty = not any(bool(tensor.any()) for key, tensor in state.items() if "lora_B" in key)
        config = self._policy.bank.peft_model.peft_config[self._policy.adapter]
        try:
            with explaining_failures(f"the adapter {name} for the servers", folder):
                shutil.rmtree(folder, ignore_errors=True)
                with new_folder(folder) as staged:
                    save_adapter(state, config, staged, self._base)
        except SaveError as error:
            raise EngineError(str(error)) from error
        return Version(name, folder, empty)

    def _compare(
        self, version: Version, said: Said, table: Tensor, ids: tuple[int, ...] | None = None
    ) -> None:
        """Raise EngineError where a server answers with other weights than those whose `table` was taken along `ids`.

        None: along the server's own answer.
        """
        found = differences(said.adapted, table, said.adapted.ids if ids is None else ids)
        alike = said.adapted == said.bare
        if not fits(found, self._exact):
            largest = (
                f"a log-probability differs by {float(found.max()):.3g} nats"
                if len(found)
                else "nothing alike"
            )
            reason = "it has another base, reads pictures in another way, or goes on with what it has read of an older adapter"
            if alike and not version.empty:
                reason = "it answers as without an adapter: its tensors found no place there"
            elif self._exact and fits(found, exact=False):
                reason = "training computes in float32, and so must it (DTYPE=float32); else " + reason
            raise EngineError(
                f"{said.url} answers with other weights than those that train ({largest}): {reason}. Start it again with "
                "scripts/serve_policy.sh and the base of this run, then the same command"
            )
        if alike and not version.empty:
            logger.warning(
                "%s answers as without an adapter, but so nearly does the policy: that the adapter works is not shown",
                said.url,
            )

    def _retire(self, old: Version | None) -> None:
        """Unload a version everywhere, then delete its folder (main process)."""
        if old is None or (self._current is not None and self._current.name == old.name):
            return
        unload_everywhere(self._pool, old.name)
        shutil.rmtree(old.folder, ignore_errors=True)

    def _clear(self) -> None:
        """Take back what an earlier start of this run has left."""
        works = [self._pool.begin(_unload_below(server, self._folder)) for server in self._pool.servers]
        wait(works, timeout=GRACE_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)


async def _unload_below(server: Server, folder: Path) -> None:
    """Unload every adapter of this folder."""
    with suppress(TryAgainError, RefusedError):
        for card in (await server.get(MODELS))["data"]:
            if card.get("parent") and Path(card["root"]).is_relative_to(folder):
                await unload(server, card["id"])
