"""Metric names with one sentence each."""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS = {
    "objective/kl_coef": "weight of the KL penalty in this step",
    "objective/kl_sum_seq": "KL estimate summed over a response, mean over responses (nats)",
    "objective/kl_avg_seq": "KL estimate per response token, mean over responses (nats)",
    "objective/log_ratio": "log p − log p_ref of a response, mean over responses: unbiased KL, whatever the penalty uses (nats)",
    "objective/reward_model": "score of the reward model alone, mean over responses",
    "objective/stop_penalty": "what missing stop tokens changed in the score, mean over responses",
    "objective/length_bonus": "length term, mean over responses",
    "objective/correct_bonus": "correct-answer term, mean over responses",
    "objective/rewards": "score with all its terms, before the KL penalty, mean over responses",
    "objective/rewards_std": "standard deviation of that score between responses",
    "objective/non_score_rewards": "KL penalty summed over a response, mean over responses",
    "objective/shaped_rewards": "score plus KL penalty of a response, before scaling or whitening, mean over responses",
    "objective/lr": "learning rate of this step",
    "objective/entropies": "entropy of the sampling policy per response token (nats)",
    "objective/ref_entropies": "entropy of the reference policy per response token (nats)",
    "response/length_mean": "response tokens with the stop token, mean over responses",
    "response/length_p50": "median response length in tokens",
    "response/length_p95": "95th percentile of the response length in tokens",
    "response/stop_rate": "share of responses that end with the stop token",
    "ppo/loss/policy": "clipped policy loss per token, mean over the step's updates",
    "ppo/loss/value": "clipped value loss per token (without vf_coef), mean over the step's updates",
    "ppo/loss/grad_norm": "gradient norm over all trained weights before clipping, mean over the step's updates",
    "ppo/loss/grad_norm_policy": "gradient norm of the policy adapter before clipping",
    "ppo/loss/grad_norm_value": "gradient norm of value adapter and head before clipping",
    "ppo/policy/entropy": "entropy of the policy while it is updated, per token (nats)",
    "ppo/policy/approxkl": "half the squared log-ratio to the sampling policy, per token",
    "ppo/policy/clipfrac": "share of tokens whose probability ratio is clipped",
    "ppo/returns/mean": "mean return per token",
    "ppo/returns/var": "variance of the returns",
    "ppo/val/vpred": "mean value predicted while it is updated",
    "ppo/val/error": "mean squared error of the value while it is updated",
    "ppo/val/clipfrac": "share of tokens whose value change is clipped",
    "ppo/val/mean": "mean value predicted at rollout",
    "ppo/val/var": "variance of the values predicted at rollout",
    "ppo/val/explained_variance": "1 − Var(return − value) / Var(return) at rollout; 1 is perfect, 0 a constant",
    "time/rollout": "seconds spent on sampling and scoring",
    "time/update": "seconds spent on optimizer steps",
}
# What `train_reward_model` and `sft_trainer` log; MEASURED says on which rows.
TRAINER_MEANINGS = {
    "loss": "loss, mean over the rows",
    "grad_norm": "gradient norm over all trained weights before clipping",
    "learning_rate": "learning rate of this step",
    "epoch": "passes over the training rows so far",
    "accuracy": "share of pairs whose preferred response has the higher score; a tie counts half",
    "label_positive_rate": "share of pairs whose second response is the preferred one",
    "average_score": "mean score of the responses",
    "runtime": "seconds it took",
    "samples_per_second": "rows per second",
    "steps_per_second": "batches per second",
    "total_flos": "floating-point operations, as far as the Trainer counts them",
}
MEASURED = {
    "eval_": "on the held-out rows",
    "final_": "on the held-out rows, with the weights that are kept",
    "train_": "over the whole training",
}


def meaning_of(name: str) -> str | None:
    """One sentence on a metric of any training program, or None for one that is not ours."""
    if name in MEANINGS:
        return MEANINGS[name]
    for prefix, where in MEASURED.items():
        if name.startswith(prefix) and name.removeprefix(prefix) in TRAINER_MEANINGS:
            return f"{TRAINER_MEANINGS[name.removeprefix(prefix)]}, {where}"
    return TRAINER_MEANINGS.get(name)


def one_line(step: int, total: int, metrics: Mapping[str, float]) -> str:
    """The line printed for each PPO step."""
    shown = {
        "reward": "objective/rewards",
        "kl": "objective/kl_sum_seq",
        "length": "response/length_mean",
        "stop": "response/stop_rate",
        "policy loss": "ppo/loss/policy",
        "value loss": "ppo/loss/value",
        "rollout s": "time/rollout",
        "update s": "time/update",
    }
    numbers = [f"{label} {metrics[name]:.3f}" for label, name in shown.items()]
    return "  ".join([f"step {step}/{total}", *numbers, f"lr {metrics['objective/lr']:.2e}"])
