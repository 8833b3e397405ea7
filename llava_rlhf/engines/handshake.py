"""Before a model is loaded: are the servers there, with this base, and can they do what the run will ask of them?"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_utils.datasets import PromptDataset
from llava_rlhf.engines.answer import WrongAnswerError, read_answer
from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.engines.http import RefusedError, Server, TryAgainError
from llava_rlhf.engines.loading import LOAD, MODELS, UNLOAD, refusal
from llava_rlhf.engines.prompts import PromptWriter, ServedPrompt
from llava_rlhf.engines.request import BAN, GENERATE, generate_body, sampling_params
from llava_rlhf.engines.serving import SERVED_NAME, TESTED_VERSIONS
from llava_rlhf.engines.sleep import WAKE, asleep, sleep_problem, wake
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.save_errors import explaining_failures
from llava_rlhf.runs.stopping import EngineError
from models.base_fingerprint import base_fingerprint
from models.generation import SamplingSettings

PATIENCE = 60.0  # seconds for one of these questions; a server's first may take half of it
NOT_FOUND = 404

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the run will ask for.

    Attributes:
        base: folder of the run's base.
        prompts: those that ask for most, as `demanding_prompts` finds them.
        response_len: longest answer.
        adapter: PEFT folder that the policy starts from, or None.
        folder: where the run will write adapters; None: it writes none, and servers read `adapter` where it lies.
    """

    base: str
    prompts: Sequence[ServedPrompt]
    response_len: int
    adapter: Path | None
    folder: Path | None


def demanding_prompts(prompts: PromptDataset, writer: PromptWriter) -> list[ServedPrompt]:
    """The longest prompt, and the one with most pictures. Raises ValueError for a picture that can't be read."""
    names, ids = prompts.column("images"), prompts.column("query_ids")
    positions = writer.text.family.fixed_positions or 1
    longest = max(range(len(ids)), key=lambda row: len(ids[row]) + len(names[row]) * (positions - 1))
    fullest = max(range(len(ids)), key=lambda row: len(names[row]))
    with_pixels = prompts.with_features(None)
    return [writer.write(with_pixels[row]) for row in dict.fromkeys((longest, fullest))]


def check_servers(arguments: ServerArguments, wanted: Wanted) -> None:
    """Ask every server. Raises ValueError that names all that is wrong with any of them, and SaveError for a full disk."""
    with _trial(wanted) as trial:
        problems = asyncio.run(_ask_all(arguments, wanted, trial))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ValueError(
            f"--vllm_servers can't answer this run's prompts:{lines}\nStart servers with: BASE_MODEL={wanted.base} bash "
            "scripts/serve_policy.sh"
        )


@contextmanager
def _trial(wanted: Wanted) -> Iterator[Path | None]:
    """The adapter, at a place where the run will have one."""
    if wanted.adapter is None or wanted.folder is None:
        yield wanted.adapter and wanted.adapter.resolve()
        return
    # A name of its own: every node of a run asks, and they share the disk and the servers.
    trial = wanted.folder / f"trial-{uuid4().hex}"
    made = [folder for folder in trial.parents if not folder.exists()]
    try:
        with explaining_failures("an adapter for the servers", trial), new_folder(trial) as staged:
            shutil.copytree(wanted.adapter, staged, dirs_exist_ok=True)
        yield trial
    finally:
        shutil.rmtree(trial, ignore_errors=True)
        for folder in made:  # a run that is refused leaves nothing
            with suppress(OSError):
                folder.rmdir()


async def _ask_all(arguments: ServerArguments, wanted: Wanted, trial: Path | None) -> list[str]:
    patience = min(PATIENCE, arguments.vllm_request_timeout)
    key = arguments.api_key()
    servers = [Server(url, key, patience, sleeps=arguments.sleeps) for url in arguments.vllm_servers]
    found = await asyncio.gather(*(_Look(server, wanted, trial).problems() for server in servers))
    return [problem for problems in found for problem in problems]


class _Look:
    """A look at one server."""

    def __init__(self, server: Server, wanted: Wanted, trial: Path | None):
        self.server, self.wanted, self.trial = server, wanted, trial

    async def problems(self) -> list[str]:
        """What is wrong with it, one line each."""
        found: list[str] = []
        try:
            steps: list[Callable[[], Awaitable[str | None]]] = [self._version, self._awake, self._base]
            steps += [self._adapter, self._log_probs, self._prompts]
            for step in steps:
                if problem := await step():
                    found.append(f"{self.server.url}{problem}")
        except (TryAgainError, RefusedError, EngineError) as error:
            found.append(str(error))
        finally:
            await self.server.close()
        return found

    async def _version(self) -> str | None:
        told = await self.server.get("/version")
        version = str(told.get("version") if isinstance(told, dict) else "")
        numbers = _numbers(version)
        if not numbers:
            raise EngineError(f"{self.server.url} is no vLLM server: /version says {str(told)[:80]!r}")
        if numbers < min(map(_numbers, TESTED_VERSIONS)):
            return f" has vLLM {version}: too old, {TESTED_VERSIONS[0]} was tested; scripts/setup_vllm.sh installs it"
        if version.partition("+")[0] not in TESTED_VERSIONS:
            tested = ", ".join(TESTED_VERSIONS)
            logger.warning("%s has vLLM %s, which was never tested: %s was", self.server.url, version, tested)
        return None

    async def _awake(self) -> str | None:
        if self.server.sleeps:
            await wake(self.server)
            return await sleep_problem(self.server)
        if await asleep(self.server):  # it answers nothing, so that nothing else can be asked
            raise EngineError(
                f"{self.server.url} sleeps, as a run with --vllm_sleep leaves it: wait for that run, or, where there is none any "
                f"more, wake it with: curl -X POST {self.server.url}{WAKE}"
            )
        return None

    async def _base(self) -> str | None:
        cards = (await self.server.get(MODELS))["data"]
        card = next((card for card in cards if card["id"] == SERVED_NAME), None)
        if card is None:
            names = ", ".join(card["id"] for card in cards)
            raise EngineError(f"{self.server.url} serves {names}, not a base under the name {SERVED_NAME!r}")
        root, base = card.get("root") or "", self.wanted.base
        if Path(root).is_dir():
            try:
                same = base_fingerprint(root) == base_fingerprint(base)
            except ValueError as error:
                return f" serves {root}, which is no base that is known here: {error}"
            if not same:
                return f" serves {root}, whose weights are others than those of {base} (--base_model_name)"
        elif self.wanted.folder is None:
            logger.warning(
                "%s serves %s, which can't be read here: whether its weights are those of %s is not known",
                *(self.server.url, root, base),
            )
        elif Path(root).name != Path(base).name:
            logger.warning(
                "%s serves %s, which can't be read here: that it is %s is seen at the first step only",
                *(self.server.url, root, base),
            )
        longest = max(len(prompt.expanded) for prompt in self.wanted.prompts) + self.wanted.response_len
        if card["max_model_len"] < longest:
            return (
                f" makes room for {card['max_model_len']} tokens, the longest prompt with its answer takes {longest}: start it "
                f"with MAX_MODEL_LEN={longest}"
            )
        return None

    async def _adapter(self) -> str | None:
        if self.trial is None:
            return None
        try:
            async with self._loaded(f"trial-{uuid4().hex}"):
                return None
        except RefusedError as error:
            if error.status == NOT_FOUND and error.reason == "Not Found":
                return " takes no adapters while it runs: VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora are missing"
            return refusal("", self.trial, error.reason)

    @asynccontextmanager
    async def _loaded(self, name: str) -> AsyncIterator[None]:
        await self.server.post(LOAD, {"lora_name": name, "lora_path": str(self.trial)})
        yield
        await self.server.post(UNLOAD, {"lora_name": name})

    async def _log_probs(self) -> str | None:
        """Whether they are of what is drawn from: with the likeliest token banned, the next one is the likeliest."""
        (first,) = (await self._first_token({}))["choices"][0]["logprobs"]["content"]
        (next_,) = (await self._first_token({str(first["token_id"]): BAN}))["choices"][0]["logprobs"][
            "content"
        ]
        if next_["token_id"] == first["token_id"]:
            return " draws a token that was banned (logit_bias)"
        if next_["rank"] not in (None, 1):
            return " gives log-probabilities of other tokens than it draws from: --logprobs-mode processed_logprobs is missing"
        return None

    async def _first_token(self, bias: dict[str, float]) -> Any:
        greedy = sampling_params(SamplingSettings(1, (), 0, 0.0), 0)
        ids = self.wanted.prompts[0].token_ids[:1]
        try:
            return await self.server.post(
                GENERATE, generate_body(SERVED_NAME, ids, (), {**greedy, "logit_bias": bias, "logprobs": 1})
            )
        except RefusedError as error:
            if error.status == NOT_FOUND and error.reason == "Not Found":
                raise EngineError(
                    f"{self.server.url} takes no token ids: --enable-scale-out is missing"
                ) from error
            raise

    async def _prompts(self) -> str | None:
        for prompt in self.wanted.prompts:
            body = generate_body(
                *(SERVED_NAME, prompt.token_ids, prompt.pictures),
                sampling_params(SamplingSettings(1, (), 0, 0.0), 0),
            )
            try:
                read_answer(await self.server.post(GENERATE, body), SERVED_NAME, prompt.expanded)
            except RefusedError as error:
                pictures = len(prompt.pictures)
                return (
                    f" refuses a prompt of {len(prompt.expanded)} tokens with {pictures} pictures: {error.reason} (more pictures: "
                    f"IMAGES_PER_PROMPT={pictures} of scripts/serve_policy.sh)"
                )
            except WrongAnswerError as error:
                return f": {error}; base and image processor there must be those of training"
        return None


def _numbers(version: str) -> tuple[int, ...]:
    words = version.partition("+")[0].split(".")
    return tuple(int(word) for word in words if word.isdigit())
