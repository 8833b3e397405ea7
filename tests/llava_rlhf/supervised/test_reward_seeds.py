"""Members of an ensemble: reward models that differ in the seed alone."""

from __future__ import annotations

from llava_rlhf import train_reward_model
from llava_rlhf.supervised.reward_trainer import RewardTrainer
from tests.support.tiny_data import reward_command


def test_seeds_cover_adapter_head_order_and_facts(tiny_data, tiny_base, tmp_path, monkeypatch):
    compute_loss, orders, texts = RewardTrainer.compute_loss, {}, []

    def recording(self, model, inputs, *args, **kwargs):
        orders.setdefault(self.args.output_dir, []).append(inputs["rows"].tolist())
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RewardTrainer, "compute_loss", recording)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        argv = reward_command(
            tiny_data,
            tiny_base,
            tmp_path / name,
            max_steps=2,
            learning_rate=0.0,
            seed=seed,
            save_strategy="no",
        )
        prepared = train_reward_model.prepare(argv)
        rows = [prepared.train_set[row] for row in range(len(prepared.train_set))]
        texts.append([item.input_ids for item in rows])
        train_reward_model.run(prepared)
    for file in ("reward_head.safetensors", "lora_reward/adapter_model.safetensors"):
        first, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == again, file
        assert first != other, file
    first, again, other = orders.values()
    assert len(first) == 2 and first == again != other
    first, again, other = texts  # facts are read in an order of the seed
    assert first == again != other
