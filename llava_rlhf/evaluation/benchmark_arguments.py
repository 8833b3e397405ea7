"""Settings of a benchmark: which one, its files, and the rules that a user can choose."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import Literal

# Benchmark → how many files it wants, and which; the others want none.
FILES = {
    "pope": (range(1, 100), "one or more JSON files of questions"),
    "mmhal": ((1,), "one, response_template.json"),
    "chair": ((2,), "two, instances_*.json and captions_*.json of the same images"),
    "amber": ((1,), "one, a query file in its folder data/query/"),
    "hallusionbench": ((1,), "one, HallusionBench.json"),
    "object_halbench": (
        range(3, 100),
        "three or more, its questions, and instances_*.json and captions_*.json of COCO",
    ),
    "tiny_world": ((1,), "one, the folder of make_world"),
    "vl_rewardbench": ((1,), "one, data.jsonl"),
    "mm_rlhf_rewardbench": ((1,), "one, mm_reward_bench.jsonl"),
    "multimodal_rewardbench": ((1,), "one, all_data.json"),
}


@dataclass
class BenchmarkArguments:
    """Which benchmark, and its files."""

    _argument_group_name = "benchmark"

    benchmark: Literal[
        "pope",
        "mmhal",
        "chair",
        "amber",
        "hallusionbench",
        "object_halbench",
        "tiny_world",
        "reward_accuracy",
        "best_of_n",
        "vl_rewardbench",
        "mm_rlhf_rewardbench",
        "multimodal_rewardbench",
    ] = field(metadata={"help": "Which benchmark; docs/evaluation.md says what each wants and means."})
    benchmark_files: list[str] = field(
        default_factory=list,
        metadata={
            "help": "pope: its JSON files; mmhal: response_template.json; chair: instances_*.json captions_*.json of "
            "COCO; amber: its data/query/query_all.json or another one there; hallusionbench: HallusionBench.json; "
            "object_halbench: its questions, then COCO's files; tiny_world: the folder of make_world; benchmarks of reward "
            "models: their file of pairs."
        },
    )
    images: int = field(
        default=500,
        metadata={"help": "chair: so many images, drawn from those of the files; 0 for all."},
    )
    image_seed: int = field(default=0, metadata={"help": "chair: of that draw."})
    question: str = field(
        default="Please describe this image in detail.", metadata={"help": "chair: what is asked."}
    )
    synonyms_file: str | None = field(
        default=None,
        metadata={
            "help": "chair, object_halbench: words for objects, such as the published synonyms.txt (default: our own list)."
        },
    )
    amber_words: Literal["published", "lists"] = field(
        default="published",
        metadata={
            "help": "amber: how things are found in a description: as published, with NLTK and spaCy, or by its lists alone."
        },
    )
    amber_reading: Literal["published", "first_word"] = field(
        default="published",
        metadata={
            "help": 'amber: what a yes or no is: exactly "Yes" or "No", as published, or the first word in any case.'
        },
    )
    spacy_model: str = field(
        default="en_core_web_lg",
        metadata={
            "help": "amber: vectors of words, a pipeline of spaCy or its folder; published numbers have this one."
        },
    )

    def __post_init__(self):
        counts, wanted = FILES.get(
            self.benchmark, ((0,), "none: everything is in the file of scores (--answers)")
        )
        if len(self.benchmark_files) not in counts:
            raise ValueError(
                f"--benchmark {self.benchmark} with {len(self.benchmark_files)} --benchmark_files: it wants {wanted}"
            )
        if self.images < 0:
            raise ValueError(f"--images {self.images}: must be 0 or more")
