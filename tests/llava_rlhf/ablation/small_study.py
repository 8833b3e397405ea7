"""A model size whose scripts compute their scores from what they are told, so that every effect is known beforehand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llava_rlhf.ablate import prepare, run
from llava_rlhf.ablation.effects import Results
from llava_rlhf.ablation.results import read_numbers

ROOT = Path(__file__).resolve().parents[3]
SEED_SCRIPT = """set -eu
echo "seed $SEED" >>"$CALLS"
[ -z "${OUTPUT_DIR:-}${FACTS:-}${ADAPTER:-}" ]
mkdir -p "$RUN_DIR/before/sft/sampled"
printf '%s' '{"table": {"all": {"error": {"value": 0.9}}}, "metrics": {"error": "mistakes"}}' \\
    >"$RUN_DIR/before/sft/sampled/scores.json"
"""
# In thousandths: 500 - 200 facts - 100 bonus - 40 facts·bonus + 10 seed·facts + 30 length + 7 (k3)
ARM_SCRIPT = """set -eu
name="$(basename "$OUTPUT_DIR")"
echo "$SEED $name" >>"$CALLS"
if [ "$name" = "$(cat "$CALLS.hang")" ]; then sleep 30; fi
if [ "$name" = "$(cat "$CALLS.fail")" ]; then echo "the disk is on fire"; exit 3; fi
facts=0; if [ "$FACTS" = True ]; then facts=1; fi
bonus=1; length=1; k3=0
case " $* " in *" --correct_bonus_score 0 "*) bonus=0 ;; esac
case " $* " in *" --length_bonus_score 0 "*) length=0 ;; esac
case " $* " in *" --kl_estimator k3 "*) k3=7 ;; esac
: "${OTHER:-}"
value=$((500 - 200 * facts - 100 * bonus - 40 * facts * bonus + 10 * SEED * facts + 30 * length + k3))
mkdir -p "$OUTPUT_DIR/evaluation/sampled"
printf '{"table": {"all": {"error": {"value": 0.%s}, "odd": {"value": null}}}, "metrics": {"error": "mistakes", "odd": "odd"}}' \\
    "$value" >"$OUTPUT_DIR/evaluation/sampled/scores.json"
"""


class SmallStudy:
    """The folder of a study and of its scripts.

    Args:
        folder: an empty folder.

    Attributes:
        hang, fail: files; the arm that they name hangs, or fails.
    """

    def __init__(self, folder: Path):
        self.scripts, self.output_dir, self.calls_file = (
            folder / "sizes/size",
            folder / "study",
            folder / "calls",
        )
        self.hang, self.fail = folder / "calls.hang", folder / "calls.fail"
        self.scripts.mkdir(parents=True)
        (self.scripts / "ablation_seed.sh").write_text(SEED_SCRIPT)
        (self.scripts / "ablation_arm.sh").write_text(ARM_SCRIPT)
        for path in (self.calls_file, self.hang, self.fail):
            path.touch()

    def command(self, *more: str) -> list[str]:
        """Arguments of `llava_rlhf.ablate`."""
        return ["--scripts", str(self.scripts), "--output_dir", str(self.output_dir), *more]

    def run(self, *more: str) -> None:
        """Run it here."""
        run(prepare(self.command(*more)))

    def start(self, *more: str) -> subprocess.Popen:
        """Start it as a user does."""
        return subprocess.Popen(
            [sys.executable, "-m", "llava_rlhf.ablate", *self.command(*more)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self) -> list[str]:
        """What was started so far."""
        return self.calls_file.read_text().splitlines()

    def results(self, *more: str) -> Results:
        """What its files say."""
        prepared = prepare(self.command(*more))
        return read_numbers(self.output_dir, prepared.arguments.seeds, prepared.arms).results
