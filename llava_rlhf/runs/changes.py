"""What may differ between a run and the checkpoint it continues from. Whatever is not listed here must be the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llava_rlhf.runs.run_record import ENVIRONMENT, GLOBAL_BATCH, INPUTS, LOWERED, PROCESSES

# No weight depends on these: where things are written, what is shown, how often is saved, who loads the images, which recipe
# named the defaults (they are recorded themselves).
NEVER_MATTERS = frozenset(
    "output_dir resume resume_from_checkpoint allow_changed_arguments summary_only verbose recipe "
    "report_to rollout_table_steps run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
    "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision "
    "disable_tqdm log_level log_level_replica log_on_each_node skip_memory_metrics "
    "logging_steps logging_strategy logging_first_step logging_nan_inf_filter "
    "save_steps save_strategy save_total_limit save_on_each_node enable_jit_checkpoint "
    "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
    "dataloader_multiprocessing_context do_train do_eval do_predict local_rank ddp_timeout max_kl max_reward_drop guard_action "
    "vllm_servers vllm_adapter_folder vllm_request_timeout vllm_step_timeout vllm_requests_in_flight vllm_sleep".split()
)
# Recorded beside the settings that they follow from.
DERIVED = frozenset(("train_batch_size", "eval_batch_size"))
# Files and folders: their content is compared (under `inputs`), so that they may move.
COMPARED_BY_CONTENT = frozenset(
    "dataset_path image_to_caption_file image_to_facts_file fact_synonyms reward_prompt_file deepspeed model_name_or_path base_model_name "
    "policy_model_name_or_path reward_model_name_or_path reward_base_model_name more_reward_models".split()
)
# The same sums in another order, or over other processes: the run goes on, equal up to rounding, and says so. (A different
# global batch is refused, whatever it is made of. The reward model's centring term, an absolute value for each
# micro-batch, is the one thing that other micro-batches change by more.) Images are too many to be compared.
ROUNDING_ONLY = frozenset(
    "per_device_train_batch_size gradient_accumulation_steps rollout_per_device_batch_size "
    "reward_model_per_device_batch_size step_per_device_batch_size tokens_per_micro_batch logits_chunk_size "
    "gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs "
    "merge_adapter_for_sampling ddp_backend ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
    "image_folder".split()
)
# With these, the checkpoint that scored best becomes the result: it matters which there are.
CHOICE_OF_THE_BEST = frozenset(("save_steps", "save_strategy"))
# Whether there is one matters, not where.
PLACE_ONLY = frozenset(("feature_cache",))
ABSENT = "(not recorded)"


class Difference(NamedTuple):
    """One setting that is not what it was; `serious` ones stop the run, of the others it only speaks."""

    name: str
    then: Any
    now: Any
    serious: bool

    def __str__(self) -> str:
        return f"{self.name}: then {self.then}, now {self.now}"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What distinguishes two records of `run_record`; a setting that only one of them knows is no difference."""
    return [*_settings(then, now), *_inputs(then[INPUTS], now[INPUTS]), *_surroundings(then, now)]


def lowered_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What is serious among the batch sizes that both records say were lowered to fit the data."""
    kept = [{LOWERED: record.get(LOWERED, {})} for record in (then, now)]
    return [difference for difference in _settings(*kept) if difference.serious]


def _settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for group in sorted(then.keys() & now.keys() - {INPUTS, ENVIRONMENT, PROCESSES, GLOBAL_BATCH}):
        silent = NEVER_MATTERS | COMPARED_BY_CONTENT | DERIVED
        if now[group].get("load_best_model_at_end"):
            silent = silent - CHOICE_OF_THE_BEST
        for name in sorted(then[group].keys() & now[group].keys() - silent):
            before, after = then[group][name], now[group][name]
            if name in PLACE_ONLY:
                before, after = before is not None, after is not None
            if before != after:
                yield Difference(name, then[group][name], now[group][name], name not in ROUNDING_ONLY)


def _inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name), now.get(name)
        if before != after:
            yield Difference(f"content of {name}", before, after, serious=True)


def _surroundings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    # DeepSpeed's files are cut up for a number of processes, and it can't put them together for another.
    cut_up = now[INPUTS].get("deepspeed") is not None
    for name, serious in ((GLOBAL_BATCH, True), (PROCESSES, cut_up)):
        if then[name] != now[name]:
            yield Difference(name, then[name], now[name], serious)
    before, after = then[ENVIRONMENT], now[ENVIRONMENT]
    for name in sorted(before.keys() | after.keys()):
        if before.get(name, ABSENT) != after.get(name, ABSENT):
            yield Difference(name, before.get(name, ABSENT), after.get(name, ABSENT), serious=False)
