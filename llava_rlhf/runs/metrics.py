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
    "ppo/loss/policy": "clipped policy loss per token with all its terms, mean over the step's updates",
    "ppo/loss/value": "clipped value loss per token (without vf_coef), mean over the step's updates",
    "ppo/loss/grad_norm": "gradient norm over all trained weights before clipping, mean over the step's updates",
    "ppo/loss/grad_norm_policy": "gradient norm of the policy adapter before clipping",
    "ppo/loss/grad_norm_value": "gradient norm of value adapter and head before clipping",
    "ppo/policy/entropy": "entropy of the policy while it is updated, per token (nats)",
    "ppo/policy/approxkl": "half the squared log-ratio to the sampling policy, per token",
    "ppo/policy/clipfrac": "share of tokens whose probability ratio is clipped",
    "ppo/groups/spread_within": "standard deviation of what answers to one prompt earn, over all prompts (scaled)",
    "ppo/groups/spread_across": "standard deviation of the prompts' mean earnings (scaled)",
    "ppo/groups/without_spread": "share of prompts whose answers all score the same: of them a group estimator learns nothing but their KL",
    "ppo/returns/mean": "mean return per token; without a critic: what an answer earns",
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
ENGINE_KL = "engine/kl"
# Nats a token: twice what bfloat16 makes where the base is the same (3e-5 to 9e-4), a fifth of what 4 bits make (1e-2).
NOTABLE_ENGINE_KL = 2e-3
# What PPO logs with some settings only. Of engines other than the model that trains p is the probability of a token there, q
# that of the engine that drew it.
MEANINGS_BY_SETTING = {
    "engine/log_ratio": "log p − log q, mean over tokens; p: model that trains, q: engine that drew the token (nats)",
    ENGINE_KL: f"KL of the engine that samples to the model that trains, k3 estimate per token (nats); above {NOTABLE_ENGINE_KL:g} is warned of",
    "engine/difference_p99": "99th percentile over tokens of |log p − log q| between engine and model (nats)",
    "engine/difference_max": "largest |log p − log q| of a token between engine and model (nats)",
    "engine/tokens_off": "share of tokens whose p / q is outside of 0.9 to 1.1",
    "engine/rows_off": "share of responses whose p / q, over all their tokens together, is outside of 0.9 to 1.1",
    "engine/weight_mean": "mean weight of a token (--importance_correction truncated)",
    "engine/weight_capped": "share of tokens whose weight was cut off at --importance_cap",
    "response/sentences_mean": "sentences that earn rewards of their own, mean over responses (--reward_placement sentence)",
    "response/masked": "share of responses that nothing is learned from, as they never stopped",
    "ppo/loss/kl": "KL to the reference as a term of the policy's loss, per token, before its weight (nats)",
    "ppo/optimizer_steps": "optimizer steps that were taken before --update_kl_limit ended the PPO step",
    "ppo/advantages/clipfrac": "share of tokens whose advantage was cut off by --advantage_clip",
    "ppo/policy/dual_clipfrac": "share of tokens whose loss is at the bound of --dual_clip",
    "objective/fact_mentions": "what things that answers name, or their claims, earn (--fact_reward), mean over responses",
    "objective/fact_coverage": "what the share of the facts' things that answers name, or of the facts that they tell, earns, mean over responses",
    "facts/right": "things named that the facts name, or claims that they support, each once a response, mean over responses",
    "facts/wrong": "things named that are not there, or false claims, each once a response, mean over responses",
    "facts/repeated": "mentions of things named before, or claims made before, mean over responses",
    "facts/unmentioned": "things named of which no fact says whether they are there, or claims that facts leave open, mean over responses",
    "facts/unsaid": "things that are denied or asked for, or sentences that are questions, mean over responses",
    "facts/there": "things in the facts, or facts, mean over responses",
    "facts/named": "things in the facts that are named, or facts that are told, mean over responses",
    "facts/undecided": "questions of a claim to which the judge said neither Yes nor No, mean over responses",
    "facts/silent": "share of responses that name no thing, or make no claim, at all",
    "objective/reward_spread": "standard deviation between the reward models of an ensemble, mean over responses",
}
# What `train_reward_model` and `initialize_policy_model` log; MEASURED says on which rows.
TRAINER_MEANINGS = {
    "loss": "loss, mean over the rows",
    "grad_norm": "gradient norm over all trained weights before clipping",
    "learning_rate": "learning rate of this step",
    "epoch": "passes over the training rows so far",
    "accuracy": "share of pairs whose preferred response has the higher score; a tie counts half",
    "label_positive_rate": "share of pairs whose second response is the preferred one",
    "average_score": "mean score of the responses",
    "chosen_reward": "log p − log p_ref of the preferred answer times dpo_beta, mean over pairs",
    "rejected_reward": "the same of the other answer, mean over pairs",
    "reward_margin": "difference of the two, mean over pairs",
    "chosen_log_prob": "log p of the preferred answer, mean over pairs (nats)",
    "rejected_log_prob": "the same of the other answer, mean over pairs (nats)",
    "approxkl": "half the squared log-ratio to the reference, per token of both answers",
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
    for known in (MEANINGS, MEANINGS_BY_SETTING):
        if name in known:
            return known[name]
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
    if metrics.get(ENGINE_KL, 0.0) > NOTABLE_ENGINE_KL:
        shown["engine KL"] = ENGINE_KL
    numbers = [f"{label} {metrics[name]:.3f}" for label, name in shown.items() if name in metrics]
    return "  ".join([f"step {step}/{total}", *numbers, f"lr {metrics['objective/lr']:.2e}"])
