"""What can be said about an import, and about an export."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path

from llava_rlhf.importing.exports import EXPORTS
from llava_rlhf.importing.formats import FORMATS
from llava_rlhf.runs.output_place import check_output, check_writable

SYSTEM = ("refuse", "drop")


@dataclass
class ImportArguments:
    """Data of another project, and the folder it goes to."""

    source: list[str] = field(
        metadata={
            "help": "Files (JSON, JSON Lines, gzip or not, Parquet), folders of them, or data sets of the Hub "
            "(owner/name[@revision][/file]); VQAv2: its questions and its annotations."
        }
    )
    output_dir: str = field(metadata={"help": "New folder; must not exist."})
    format: str | None = field(
        default=None,
        metadata={
            "help": f"Format of the rows: {', '.join(FORMATS)} (default: told by the fields of the first row)."
        },
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder, zip or tar in which the pictures lie that rows name."}
    )
    copy_images: bool = field(
        default=False,
        metadata={
            "help": "Copy the pictures of --image_folder, too, into the new folder, under names by content."
        },
    )
    system_messages: str = field(
        default="refuse",
        metadata={"help": "Rows with a system message, for which there is no place: refuse or drop it."},
    )
    skip_invalid: bool = field(
        default=False,
        metadata={"help": "Leave out rows that can't be converted, and list them in left_out.jsonl."},
    )

    def __post_init__(self):
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: must be one of {', '.join(FORMATS)}")
        if self.system_messages not in SYSTEM:
            raise ValueError(f"--system_messages {self.system_messages}: must be one of {', '.join(SYSTEM)}")
        if self.image_folder is not None and not Path(self.image_folder).exists():
            raise ValueError(f"--image_folder {self.image_folder}: no such folder or archive")
        if self.copy_images and self.image_folder is None:
            raise ValueError("--copy_images True: needs --image_folder, whose pictures are copied")
        check_output(Path(self.output_dir), 0, "--output_dir")


@dataclass
class ExportArguments:
    """Preferences of this project, and the file for another trainer."""

    preferences_file: str = field(metadata={"help": "Preference file."})
    format: str = field(metadata={"help": f"Who is to read it: {', '.join(EXPORTS)}."})
    output_file: str = field(metadata={"help": "JSON Lines file to write."})
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder to put in front of the pictures' names (default: they stay relative)."},
    )

    def __post_init__(self):
        if self.format not in EXPORTS:
            raise ValueError(f"--format {self.format}: must be one of {', '.join(EXPORTS)}")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise ValueError(f"--image_folder {self.image_folder}: no such folder")
        if Path(self.output_file).is_dir():
            raise ValueError(f"--output_file {self.output_file} is a directory; name a file")
        if Path(self.output_file).resolve() == Path(self.preferences_file).resolve():
            raise ValueError(f"--output_file {self.output_file} is the preference file; choose another")
        check_writable("--output_file", Path(self.output_file).parent)
