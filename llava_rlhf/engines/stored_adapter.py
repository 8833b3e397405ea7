"""An adapter that lies on disk, on the servers for as long as a program asks them; no model is loaded here.

What training compares with its own model can't be compared: the servers were asked about their base before (`handshake`),
every answer is looked at as always, and an adapter that changes nothing there is told by the probe.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from llava_rlhf.engines.holders import Holders
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.loading import Said, Version, load_everywhere, unload_everywhere
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.probe import Probe
from llava_rlhf.engines.serving import SERVED_NAME
from llava_rlhf.runs.stopping import EngineError
from models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_tensors


class StoredAdapter:
    """As `AdapterKeeper`, of weights that do not move.

    Args:
        pool: of servers.
        folder: PEFT folder, which is only read; None: the base answers as it is.
        probe: the question.
    """

    def __init__(self, pool: ServerPool, folder: Path | None, probe: Probe):
        self._pool, self._probe = pool, probe
        self._version = None if folder is None else stored_version(folder)
        self._loaded = folder is None
        self._holders = Holders(pool, probe)

    def deliver(self, step: int, until: float) -> str:
        """As `AdapterKeeper.deliver`; only the first call loads anything."""
        if self._version is None:
            return SERVED_NAME
        if not self._loaded:
            self._loaded = True  # some servers may have it, even if not all take it
            everyone = load_everywhere(self._pool, self._version, self._probe, until)
            for said in everyone:
                self._look_at(said)
            self._holders.begin(said.url for said in everyone)
        return self._version.name

    def shown(self, server: Server) -> bool:
        """As `AdapterKeeper.shown`; a base without an adapter was looked at before."""
        return self._version is None or server.url in self._holders

    async def restore(self, server: Server) -> None:
        """As `AdapterKeeper.restore`."""
        if self._version is None:
            raise EngineError(f"{server.url} serves no model {SERVED_NAME!r} any more; start it again")
        await self._holders.give(server, self._version, self._look_at)

    def end(self) -> None:
        """Take the adapter back, as far as servers still answer; its files stay."""
        if self._version is not None and self._loaded:
            unload_everywhere(self._pool, self._version.name)

    def _look_at(self, said: Said) -> None:
        """Raise EngineError where a server answers alike with an adapter and without, though the adapter changes something,
        and where the adapter's files are no longer what they were."""
        if said.adapted == said.bare and not self._version.empty:
            raise EngineError(
                f"{said.url} answers with {self._version.folder} as without an adapter: its tensors found no place there, or "
                "it changes no answer. Look at the names of its tensors; --rollout_engine local answers without servers"
            )
        if stored_version(self._version.folder).name != self._version.name:
            raise EngineError(
                f"{self._version.folder} was changed while servers read it; wait until it is written, then the same command"
            )


def stored_version(folder: Path) -> Version:
    """An adapter under the name of its place and the digest of its files: servers keep what they read under a name."""
    place = folder.resolve()
    digest = hashlib.sha256(str(place).encode())
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        digest.update((place / name).read_bytes())
    tensors = read_adapter_tensors(place).items()
    empty = not any(bool(tensor.any()) for name, tensor in tensors if "lora_B" in name)
    return Version(f"stored-{digest.hexdigest()[:16]}", place, empty)
