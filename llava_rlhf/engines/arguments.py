"""Settings of who answers prompts."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import math
import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from llava_rlhf.engines.serving import KEY

LOCAL = "local"  # the model that trains, or that is asked, answers itself
ADAPTERS = "served_adapters"
SAFE_MARGIN = 0.9  # of --ddp_timeout: after the step's limit a process still tells the others


@dataclass
class ServerArguments:
    """Who answers prompts, and how long it is waited for."""

    _argument_group_name = "rollout engine"

    rollout_engine: Literal["local", "vllm"] = field(
        default=LOCAL,
        metadata={
            "help": "local: the model answers where it is loaded; vllm: --vllm_servers do, in their own number format."
        },
    )
    vllm_servers: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Addresses, as http://host:8000, of servers that scripts/serve_policy.sh has started; they share the rows. "
            f"A key that they ask for stands in the environment, in {KEY}."
        },
    )
    vllm_request_timeout: float = field(
        default=300.0,
        metadata={"help": "Seconds after which an answer is asked for again, elsewhere if it can be."},
    )
    vllm_step_timeout: float = field(
        default=1500.0,
        metadata={
            "help": "Seconds that a step's (batch's) answers may take, with all that is tried again; then the run stops."
        },
    )
    vllm_requests_in_flight: int = field(
        default=64,
        metadata={"help": "Answers that each process has under way at a server, at most."},
    )

    def __post_init__(self):
        self.vllm_servers = [_address(url) for url in self.vllm_servers]
        for url in self.vllm_servers:
            if self.vllm_servers.count(url) > 1:
                raise ValueError(f"--vllm_servers names {url} twice; name each server once")
        for name in ("vllm_request_timeout", "vllm_step_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"--{name} {getattr(self, name)}: must be above 0 seconds, and finite")
        if self.vllm_requests_in_flight < 1:
            raise ValueError(f"--vllm_requests_in_flight {self.vllm_requests_in_flight}: must be at least 1")
        if self.served and not self.vllm_servers:
            raise ValueError(
                "--rollout_engine vllm without --vllm_servers: nobody would answer; start one with scripts/serve_policy.sh and "
                "name its address, as http://127.0.0.1:8000"
            )
        if not self.served:
            self._refuse("vllm_servers")
        elif self.vllm_request_timeout > self.vllm_step_timeout:
            raise ValueError(
                f"--vllm_request_timeout {self.vllm_request_timeout} is longer than --vllm_step_timeout "
                f"{self.vllm_step_timeout}: nothing would be tried again; give a step more time"
            )

    @property
    def served(self) -> bool:
        """Whether servers answer."""
        return self.rollout_engine == "vllm"

    @property
    def sleeps(self) -> bool:
        """Whether servers sleep while nobody asks them."""
        return False

    def check_bits(self, bits: int) -> None:
        """Raise ValueError where servers can't answer as a base with weights of so many bits does."""
        if self.served and bits in (4, 8):
            raise ValueError(
                f"--bits {bits} with --rollout_engine vllm: the server would answer with other numbers than a base in "
                f"{bits} bits (in 4 a token's log-probability was off by up to 1.4); use --bits 16, or --rollout_engine local"
            )

    @staticmethod
    def api_key() -> str | None:
        """What servers ask for before they answer; in the environment only, as records and command lines are shown to others."""
        return os.environ.get(KEY) or None

    def _refuse(self, name: str) -> None:
        """Raise ValueError where a flag is set that only servers have a use for."""
        if getattr(self, name):
            raise ValueError(
                f"--{name} with --rollout_engine {self.rollout_engine}, which asks no server; add --rollout_engine "
                "vllm, or leave it out"
            )


@dataclass
class EngineArguments(ServerArguments):
    """Who answers prompts of training."""

    _argument_group_name = "rollout engine"

    vllm_adapter_folder: str | None = field(
        default=None,
        metadata={
            "help": "Where the policy's adapter is written for the servers, under the same path on every machine; default: "
            f"{ADAPTERS} in --output_dir."
        },
    )
    vllm_sleep: bool = field(
        default=False,
        metadata={
            "help": "Wake the servers for a step's answers, and send them to sleep behind them: they share GPUs with training, "
            "and with nobody else; started with SLEEP=True."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.served:
            self._refuse("vllm_adapter_folder")
            self._refuse("vllm_sleep")

    @property
    def sleeps(self) -> bool:
        """As `ServerArguments.sleeps`."""
        return self.vllm_sleep

    def check_with(self, bits: int, ddp_timeout: int) -> None:
        """Raise ValueError for what servers can't answer as it is trained, and for limits in the wrong order.

        Args:
            bits: of the base's weights in training.
            ddp_timeout: seconds that a process waits for the others.
        """
        self.check_bits(bits)
        if self.served and self.vllm_step_timeout > SAFE_MARGIN * ddp_timeout:
            raise ValueError(
                f"--vllm_step_timeout {self.vllm_step_timeout} with --ddp_timeout {ddp_timeout}: the other processes would give "
                f"up before the servers' time is over; add --ddp_timeout {math.ceil(self.vllm_step_timeout / SAFE_MARGIN)}"
            )

    def adapter_folder(self, output_dir: str | Path) -> Path:
        """Where the adapters of a run lie, absolute; a folder of this run alone, since it is emptied."""
        own = Path(output_dir).resolve()
        if self.vllm_adapter_folder is None:
            return own / ADAPTERS
        return (
            Path(self.vllm_adapter_folder).resolve()
            / f"{own.name}-{sha256(str(own).encode()).hexdigest()[:8]}"
        )


def _address(url: str) -> str:
    """`url` without what may stand behind host and port. Raises ValueError where that is more than nothing."""
    parts = urlsplit(url)
    try:
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or parts.path.strip("/") not in ("", "v1") or parts.query or parts.username:
        raise ValueError(
            f"--vllm_servers {url}: must be an address as http://host:8000, without a path; a key stands in {KEY}"
        )
    return f"{parts.scheme}://{parts.netloc}"
