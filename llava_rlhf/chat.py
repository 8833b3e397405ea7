"""Chat about an image in the terminal, with a base and an optional adapter; reads the standard input, so it can be piped.

    python -m llava_rlhf.chat --base_model_name checkpoints/llava-7b-v1.5-224-sft --adapter runs/rl_model --image photo.jpg

Each line is a message. `/image PATH` looks at another image and starts anew, `/reset` starts anew with the same image,
`/help` lists the commands, `/quit` (or the end of the input) leaves.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_utils.images import check_image
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.interactive.arguments import GenerationArguments
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import check_pieces, check_template

if TYPE_CHECKING:
    from llava_rlhf.interactive.answering_models import AnsweringModel, Checkpoint

HELP = "/image PATH: another image, from the start; /reset: from the start; /quit: leave"


@dataclass
class ChatArguments:
    """Who answers, and about what."""

    _argument_group_name = "chat"

    base_model_name: str = field(metadata={"help": "Model directory in Hugging Face format, or its hub id."})
    adapter: str | None = field(
        default=None, metadata={"help": "Policy run folder, checkpoint or PEFT folder, or its hub id."}
    )
    image: str | None = field(default=None, metadata={"help": "Image file to talk about."})


@dataclass(frozen=True)
class ChatRun:
    """A checked chat."""

    arguments: ChatArguments
    generation: GenerationArguments
    model: ModelArguments
    checkpoint: "Checkpoint"


def prepare(argv: Sequence[str]) -> ChatRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    arguments, generation, model = StrictParser(
        (ChatArguments, GenerationArguments, ModelArguments), description=__doc__
    ).parse(argv)
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.image_choices import check_limits
    from llava_rlhf.assembly.roles import load_text_side
    from llava_rlhf.interactive.answering_models import check_checkpoint

    start_logging(main_process=False)
    model.check_attention(generation.bf16, False, generation.use_cpu)
    checkpoint = check_checkpoint("model", arguments.base_model_name, arguments.adapter)
    check_template(checkpoint.base, checkpoint.adapter, *generation.template)
    text = load_text_side(checkpoint.base, generation.image_choices(), *generation.template)
    check_limits(checkpoint.base, checkpoint.adapter, text.image_choices)
    check_conversation(arguments.base_model_name, text.tokenizer, text.template)
    check_pieces(checkpoint.base, checkpoint.adapter, text.template)
    if arguments.image is not None:
        reason = unusable(arguments.image)
        if reason:
            raise ValueError(f"--image {arguments.image}: {reason}")
    return ChatRun(arguments, generation, model, checkpoint)


def run(prepared: ChatRun) -> None:
    """Load, then answer line after line."""
    from llava_rlhf.interactive.answering_models import load_models

    generation = prepared.generation
    models = load_models(
        [prepared.checkpoint],
        None,
        generation.base_settings(prepared.model),
        generation.template,
        generation.image_choices(),
        generation.lengths,
    )
    chat = Chat(models.answering[0], generation.temperature, generation.seed)
    if prepared.arguments.image is not None:
        chat.look_at(prepared.arguments.image)
    note(HELP)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text end no chat
    chat.read(sys.stdin)


class Chat:
    """One conversation after the other with one model. Answers go to the standard output, remarks to the error output.

    Args:
        model: who answers.
        temperature: 0 takes the most likely token.
        seed: of the first answer; each further one counts it up.
    """

    def __init__(self, model: "AnsweringModel", temperature: float, seed: int):
        self._model, self._temperature, self._seed = model, temperature, seed
        self.turns: list[Turn] = []
        self.image: Path | None = None

    def read(self, lines: Iterable[str]) -> None:
        """Take messages and commands until `/quit` or the end; Ctrl-C cuts an answer off, or leaves."""
        interactive = sys.stdin.isatty()
        lines = iter(lines)
        while True:
            if interactive:
                print("you> ", end="", file=sys.stderr, flush=True)
            try:
                line = next(lines, "/quit").strip()
            except KeyboardInterrupt:
                line = "/quit"
            if line == "/quit":
                return
            if line:
                self.handle(line)

    def handle(self, line: str) -> None:
        """Follow a command or answer a message. What can't be done is said, and changes nothing."""
        command, _, rest = line.partition(" ")
        if command == "/image":
            self.look_at(rest.strip())
        elif line == "/reset":
            self.turns = []
            note("from the start")
        elif line.startswith("/"):
            note(HELP if line == "/help" else f"no such command: {command}\n{HELP}")
        else:
            self._answer(line)

    def look_at(self, path: str) -> None:
        """Talk about another image, from the start."""
        reason = unusable(path)
        if reason:
            note(f"{path}: {reason}")
            return
        self.image, self.turns = Path(path), []
        note(f"looking at {path}")

    def _answer(self, message: str) -> None:
        turns = [*self.turns, Turn("human", message.replace(IMAGE_MARKER, ""))]
        answers = self._model.answer(turns, self.image, self._temperature, self._seed)
        shown = ""
        try:
            for answer in answers:
                # Text that was shown can't be taken back: a token that would change it waits for the next.
                if answer.text.startswith(shown):
                    print(answer.text[len(shown) :], end="", flush=True)
                    shown = answer.text
        except ValueError as error:
            note(str(error))
            return
        except KeyboardInterrupt:
            answers.close()
        print(flush=True)
        self._seed += 1
        if shown:
            self.turns = [*turns, Turn("gpt", shown)]


def unusable(path: str) -> str | None:
    """Why an image file can't be looked at, or None."""
    if not path:
        return "name an image file"
    return check_image(Path(path).parent, Path(path).name)


def note(text: str) -> None:
    """Say something that is no answer."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program(prepare, run)
