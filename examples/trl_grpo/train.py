"""TRL's GRPO on a vision-language model, with rewards of a running reward service (README.md here).

    REWARD_URL=http://127.0.0.1:8100 .venv-trl/bin/python examples/trl_grpo/train.py \\
        --model runs/tiny/policy --world runs/tiny/world --output_dir runs/tiny/trl_grpo

Runs in the environment of scripts/setup_trl.sh; of this repository it uses the client of the service alone. Left out: more
than one process, and a second reward function; both are TRL's own matter.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset, Image
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from llava_rlhf.reward_service.client import RewardClient, trl_reward

LANGUAGE_MODEL = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def main() -> None:
    """Train an adapter, and save it as PEFT does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="policy: a plain Hugging Face folder")
    parser.add_argument(
        "--world", required=True, help="folder with prompts.json, image_to_caption.json and images/"
    )
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    processor = AutoProcessor.from_pretrained(given.model, backend="pil", padding_side="left")
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=trl_reward(
            RewardClient(os.environ["REWARD_URL"]), stop_ids=[processor.tokenizer.eos_token_id]
        ),
        args=settings(given),
        train_dataset=prompts(Path(given.world)),
        processing_class=processor,
        peft_config=LoraConfig(r=16, lora_alpha=16, target_modules=LANGUAGE_MODEL),
    )
    trainer.train()
    trainer.save_model(given.output_dir)
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    Path(given.output_dir, "rewards.json").write_text(json.dumps([entry["reward"] for entry in history]))
    print(f"reward {history[0]['reward']:.2f} at the first step, {history[-1]['reward']:.2f} at the last")


def prompts(world: Path) -> Dataset:
    """One question about one picture a row, with the captions that only the reward model reads."""
    captions = json.loads((world / "image_to_caption.json").read_text())
    rows = json.loads((world / "prompts.json").read_text())
    questions = [row["conversations"][0]["value"].replace("<image>", "").strip() for row in rows]
    table = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": question}] for question in questions],
            "question": questions,
            "image": [str(world / "images" / row["image"]) for row in rows],
            "captions": [captions[row["image"]] for row in rows],
        }
    )
    return table.cast_column("image", Image())  # opened when a step asks for it


def settings(given: argparse.Namespace) -> GRPOConfig:
    """GRPO as it was measured on the tiny world."""
    return GRPOConfig(
        output_dir=given.output_dir,
        max_steps=given.steps,
        seed=given.seed,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=28,
        temperature=1.0,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        beta=0.05,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )


if __name__ == "__main__":
    main()
