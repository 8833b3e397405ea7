"""How the tiny base learns, in three stages: to name what it sees, to check a name, then everything at once.

1. **Naming**: each image feature is classified against the word embeddings of the 24 names and "nothing". Tower and
   projector learn; they are frozen from then on, the embeddings they were aligned with keep training (tied).
2. **Checking**: check lists only. With features that look like words and queries that start equal to keys, matching a
   word with the picture is learned in about a hundred steps; without them it stays at chance for thousands.
3. **Mixture**: dialogues, answers to be graded with and without captions, and a few check lists. Two linear probes
   that are thrown away afterwards read off what a reward model must know: at the last position the answer's grades, and at
   every object name whether it is in the picture and whether it was named before.

A plan without matching (`Plan.without_matching`) leaves out stage 2 and all of 3 in which a word must be found in the picture.

A reward model that is given captions sees noisier pictures than anyone else, so that it learns to read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange
from transformers import PreTrainedModel

from data_utils.shapes_files import AnyScene
from data_utils.shapes_text import describe_question
from data_utils.shapes_world import NAMES
from llava_rlhf.tiny_world.lessons import GRADES, Lesson, LessonBatch, Teacher, batch_lessons, random_question
from llava_rlhf.tiny_world.plan import Plan
from models.families.base import Place
from models.positions import picture_positions, text_positions

NAMING_SCALE = 40.0
QUESTIONS_PER_DIALOGUE = 3


class Curriculum:
    """The three stages on one model. `seed` decides every lesson; the model's initial weights are the caller's."""

    def __init__(self, model: PreTrainedModel, teacher: Teacher, plan: Plan, seed: int):
        self.model = model
        self.teacher = teacher
        self.kind, self.family = teacher.kind, teacher.family
        self.plan = plan
        self.rng = np.random.default_rng(seed)
        width = model.config.get_text_config().hidden_size
        self.grade_probe = nn.Linear(width, len(GRADES))
        self.object_probe = nn.Linear(width, 2)
        self.vision = [
            p for name in self.family.towers.values() for p in model.get_submodule(name).parameters()
        ]
        # Drawn beforehand where drawing takes long; the tower is asked once about each when it learns no more.
        self.known = [self.kind.sample_scene(self.rng) for _ in range(plan.scenes)]
        self._features: dict[AnyScene, Tensor] = {}

    def name_things(self) -> float:
        """Stage 1; returns the share of positions named rightly in the last 50 steps."""
        words = self.model.get_input_embeddings().weight.detach()
        classes = words[[*self.teacher.name_ids.values(), self.teacher.nothing_id]]
        weights = torch.tensor([1.0] * len(NAMES) + [self.plan.nothing_weight])
        optimizer = torch.optim.AdamW(self.vision, lr=self.plan.naming_lr, weight_decay=0.01, fused=True)
        hits = []
        for step in trange(self.plan.naming_steps, desc="1 naming", unit="step", disable=None):
            warm = min(1.0, (step + 1) / 20)
            cosine = 0.5 * (1 + math.cos(math.pi * step / self.plan.naming_steps))
            _set_lr(optimizer, self.plan.naming_lr * warm * cosine)
            scenes = self._scenes(self.plan.naming_batch)
            logits = NAMING_SCALE * self._encode(scenes, self.plan.noise) @ classes.T
            target = torch.tensor([place for scene in scenes for place in self.kind.classes(scene)])
            loss = functional.cross_entropy(logits, target, weights)
            _update(optimizer, loss, self.vision)
            hits.append((logits.argmax(-1) == target).float().mean().item())
        for parameter in self.vision:
            parameter.requires_grad_(False)
        return float(np.mean(hits[-50:]))

    def learn_language(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Stages 2 and 3; yields the step and the mean losses since the last report."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        trained += [*self.grade_probe.parameters(), *self.object_probe.parameters()]
        optimizer = torch.optim.AdamW(
            trained, lr=self.plan.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        total = self.plan.checking_steps + self.plan.mixture_steps
        recent: list[dict[str, float]] = []
        for step in trange(total, desc="2+3 checking, mixture", unit="step", disable=None):
            _set_lr(optimizer, self.plan.lr * self._lr_factor(step))
            losses = self._losses(step)
            _update(optimizer, sum(losses.values()), trained)
            recent.append({name: loss.item() for name, loss in losses.items()})
            if (step + 1) % 250 == 0 or step + 1 in (self.plan.checking_steps, total):
                yield step + 1, {name: float(np.mean([r[name] for r in recent])) for name in recent[-1]}
                recent.clear()

    def _lr_factor(self, step: int) -> float:
        done = (step - self.plan.checking_steps) / self.plan.mixture_steps
        return min(1.0, (step + 1) / 30) * (
            1.0 if done < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * done - 1)))
        )

    def _losses(self, step: int) -> dict[str, Tensor]:
        plan, rng, teacher = self.plan, self.rng, self.teacher
        if step < plan.checking_steps:
            scenes = self._scenes(2 * plan.batch)
            return {"check": self._answer_loss(scenes, [teacher.check_list(s, rng) for s in scenes])}
        scenes = self._scenes(plan.batch)
        losses = {"dialogue": self._answer_loss(scenes, [self._dialogue(scene) for scene in scenes])}
        if plan.matching:
            scenes = self._scenes(plan.batch // 3)
            losses["check"] = 0.3 * self._answer_loss(scenes, [teacher.check_list(s, rng) for s in scenes])
        graded = {"grades": plan.noise} if plan.matching else {}
        for name, noise in {**graded, "grades_facts": plan.facts_noise}.items():
            scenes = self._scenes(plan.batch // 2)
            lessons = [teacher.graded(s, rng, with_facts=name == "grades_facts") for s in scenes]
            losses[name] = self._grades_loss(scenes, lessons, noise)
        return losses

    def _dialogue(self, scene: AnyScene) -> Lesson:
        if self.plan.matching:
            asked = [random_question(scene.names, self.rng) for _ in range(QUESTIONS_PER_DIALOGUE)]
        else:  # once, as the second answer would be a copy of the first
            asked = [describe_question(scene.names, self.rng)]
        return self.teacher.dialogue(scene, asked)

    def _scenes(self, count: int) -> list[AnyScene]:
        if self.known:
            return [self.known[index] for index in self.rng.integers(len(self.known), size=count)]
        return [self.kind.sample_scene(self.rng) for _ in range(count)]

    def _encode(self, scenes: Sequence[AnyScene], noise: tuple[float, float]) -> Tensor:
        """Features float32[ΣK, D] of the scenes' pictures."""
        learning = self.vision[0].requires_grad
        if learning or not self.known or noise != (0.0, 0.0):
            return torch.cat(self._look_at(scenes, noise))
        new = [scene for scene in dict.fromkeys(scenes) if scene not in self._features]
        if new:
            self._features.update(zip(new, self._look_at(new, noise), strict=True))
        return torch.cat([self._features[scene] for scene in scenes])

    def _look_at(self, scenes: Sequence[AnyScene], noise: tuple[float, float]) -> list[Tensor]:
        pixels = self.kind.pixels(scenes, noise, self.rng)
        return list(self.family.encode(self.model, pixels, [self.kind.grid(scene) for scene in scenes]))

    def _hidden(self, scenes: list[AnyScene], batch: LessonBatch, noise: tuple[float, float]) -> Tensor:
        """Last hidden states, float32[B, L, D]. Padding is on the right, so causal attention needs no mask."""
        words = self.model.get_input_embeddings()(batch.ids)
        places = batch.ids == self.teacher.image_id
        lying = [self.family.place(self.kind.grid(scene)) for scene in scenes]
        if isinstance(lying[0], Place):
            positions, _ = picture_positions(places, None, lying)
        else:
            positions = text_positions(None, batch.ids.shape[1], batch.ids.device)
        embedded = words.masked_scatter(places[..., None], self._encode(scenes, noise))
        model = self.family.language_model(self.model)
        return model(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state

    def _answer_loss(self, scenes: list[AnyScene], lessons: list[Lesson]) -> Tensor:
        """Weighted mean negative log-likelihood of the tokens that carry weight."""
        batch = batch_lessons(lessons)
        hidden = self._hidden(scenes, batch, self.plan.noise)
        counts = batch.weights[:, 1:] > 0
        logits = self.model.lm_head(hidden[:, :-1][counts])
        losses = functional.cross_entropy(logits, batch.ids[:, 1:][counts], reduction="none")
        weights = batch.weights[:, 1:][counts]
        return (losses * weights).sum() / weights.sum()

    def _grades_loss(
        self, scenes: list[AnyScene], lessons: list[Lesson], noise: tuple[float, float]
    ) -> Tensor:
        """Half the squared error of the grades plus half the object probe's binary cross-entropy."""
        batch = batch_lessons(lessons)
        hidden = self._hidden(scenes, batch, noise)
        grades = self.grade_probe(hidden[torch.arange(len(lessons)), batch.last])
        names, truth = object_targets(batch.ids, lessons, self.teacher.name_ids)
        objects = functional.binary_cross_entropy_with_logits(self.object_probe(hidden[names]), truth)
        return 0.5 * functional.mse_loss(grades, batch.grades) + 0.5 * objects


def object_targets(ids: Tensor, lessons: list[Lesson], name_ids: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Where object names stand, and for each whether it is in the picture and whether it was named before.

    Args:
        ids: int64[B, L].
        lessons: the B lessons the rows come from.
        name_ids: token id of every object name.

    Returns:
        bool[B, L], True at object names; float32[N, 2] for these positions in row order.
    """
    is_name = torch.isin(ids, torch.tensor(list(name_ids.values())))
    truth = []
    for row, lesson in enumerate(lessons):
        present = {name_ids[name] for name in lesson.present}
        named: set[int] = set()
        for token in ids[row][is_name[row]].tolist():
            truth.append([float(token in present), float(token in named)])
            named.add(token)
    return is_name, torch.tensor(truth)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
