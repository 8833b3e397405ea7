"""Judgements → the published preference format, and the numbers that go with it.

One row a pair. People decide where people judged; AI annotators decide the rest. More than half of those who decide must
prefer the same answer: where they do not, or most say "tie" or "both bad", there is no row.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_utils.schema import IMAGE_MARKER, AnswerType
from llava_rlhf.collection.agreement import krippendorff_alpha, pairwise
from llava_rlhf.collection.judgements import Judgement, Verdict
from llava_rlhf.collection.pairs import Pair
from llava_rlhf.runs.run_folder import write_text_whole

WRITER = "llava"  # `from` of the outputs in the published files


def deciding(judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """The judgements of a pair that decide it: people's, else AI annotators'; unreadable ones never."""
    usable = {name: one for name, one in judgements.items() if one.verdict.counts}
    return {name: one for name, one in usable.items() if one.human} or usable


def majority(judgements: Mapping[str, Judgement]) -> int | None:
    """1 or 2 where more than half of the deciding judgements prefer it, else None."""
    decided = deciding(judgements)
    for preference in (1, 2):
        votes = sum(one.verdict.preference == preference for one in decided.values())
        if 2 * votes > len(decided):
            return preference
    return None


def preference_row(pair: Pair, judgements: Mapping[str, Judgement]) -> dict[str, Any] | None:
    """A row of the published format, or None where nobody won."""
    preference = majority(judgements)
    if preference is None:
        return None
    decided = deciding(judgements)
    question = f"{IMAGE_MARKER}\n" * len(pair.images) + pair.question
    image = pair.images[0] if len(pair.images) == 1 else list(pair.images)
    comments = {name: one.comment for name, one in decided.items() if one.comment}
    return {
        "id": pair.id or str(pair.row),
        **({"image": image} if pair.images else {}),
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": pair.outputs[preference - 1]},
        ],
        "output_1": {"from": WRITER, "value": pair.outputs[0]},
        "output_2": {"from": WRITER, "value": pair.outputs[1]},
        "preference": preference,
        **({"captions": list(pair.captions)} if pair.captions else {}),
        **pair.facts.written(),
        **({} if pair.answer_type is AnswerType.GENERAL else {"caption_type": int(pair.answer_type)}),
        "prompt_row": pair.row,
        "votes": {name: one.verdict.value for name, one in decided.items()},
        **({"comments": comments} if comments else {}),
    }


class PreferenceFile:
    """The published-format file, kept up to date pair by pair and written whole.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._rows: dict[int, str] = {}

    def update(self, pair: Pair, judgements: Mapping[str, Judgement]) -> None:
        """Take in what is now known of a pair; `write` puts it on disk."""
        row = preference_row(pair, judgements)
        self._rows.pop(pair.row, None)
        if row is not None:
            self._rows[pair.row] = json.dumps(row, ensure_ascii=False)

    def write(self) -> None:
        """Write the file, in the order of the prompts. Raises SaveError when the file system refuses it."""
        lines = ",\n".join(self._rows[row] for row in sorted(self._rows))
        text = f"[\n{lines}\n]\n" if lines else "[]\n"
        # A browser may send half a surrogate pair, which UTF-8 can't spell.
        write_text_whole(self.path, text.encode("utf-8", "replace").decode())


def summarise(pairs: Mapping[int, Pair], judgements: Mapping[int, Mapping[str, Judgement]]) -> dict[str, Any]:
    """Counts and agreement of a collection, ready for JSON."""
    verdicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for by_annotator in judgements.values():
        for name, one in by_annotator.items():
            verdicts[name][one.verdict.value] += 1
    results = [majority(by_annotator) for by_annotator in judgements.values() if deciding(by_annotator)]
    readable = {
        row: {name: one.verdict for name, one in by.items() if one.verdict.counts}
        for row, by in judgements.items()
    }
    preferring = {
        row: {name: verdict for name, verdict in by.items() if verdict.preference}
        for row, by in readable.items()
    }
    return {
        "pairs": len(pairs),
        "judged": len(results),
        "preferences": sum(result is not None for result in results),
        "undecided": sum(result is None for result in results),
        "first_preferred": results.count(1),
        "verdicts": {name: dict(sorted(counts.items())) for name, counts in sorted(verdicts.items())},
        "agreement": {"all_verdicts": _agreement(readable), "preferences_only": _agreement(preferring)},
    }


def _agreement(labels: Mapping[int, Mapping[str, Verdict]]) -> dict[str, Any]:
    pairs = pairwise(labels)
    return {
        "krippendorff_alpha": krippendorff_alpha(labels),
        "pairs_with_two_or_more": sum(len(by) > 1 for by in labels.values()),
        "pairwise": [
            {
                "annotators": list(one.annotators),
                "pairs": one.items,
                "agreement": one.agreement,
                "cohen_kappa": one.kappa,
            }
            for one in pairs
        ],
    }
