"""`--feature_cache`: the folder that belongs to a vision tower, its projector and the way images become pixels."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from data_utils.datasets import ExampleDataset, ItemT
from data_utils.feature_files import FeatureFiles
from data_utils.images import ImagePipeline
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.training_arguments import LlavaTrainingArguments
from models.base_files import read_family
from models.vision_fingerprint import vision_fingerprint

FORMAT = 1
NO_CACHE_UNDER_ZERO_3 = (
    "--feature_cache: ZeRO-3 cuts up the vision tower, so that no process can leave it out; use ZeRO-2"
)

logger = logging.getLogger(__name__)


def open_feature_cache(
    directory: str, base: str | Path, pipeline: ImagePipeline, dtype: torch.dtype, main_process: bool
) -> FeatureFiles:
    """The files of one base's tower below `directory`, which may hold those of many.

    Args:
        directory: what `--feature_cache` says.
        base: the base, read from its files: no model is loaded.
        pipeline: image files → pixels.
        dtype: of the tower's weights and activations.
        main_process: whether to say what is there.

    Raises:
        ValueError: the folder can neither be written nor has anything to read; the base lacks weights of the tower.
    """
    about = json.dumps(ingredients(base, pipeline, dtype), indent=2, sort_keys=True, default=str) + "\n"
    family = read_family(base)
    folder = Path(directory) / hashlib.sha256(about.encode()).hexdigest()[:32]
    try:
        files = FeatureFiles(folder, (family.fixed_positions, family.feature_width))
        files.write_about(about)
    except (ValueError, OSError) as error:
        raise ValueError(f"--feature_cache {directory}: {error}") from error
    if main_process:
        count = files.count()
        size = files.bytes_per_image
        sizes = f", {count * size / 2**30:.2f} GiB ({size / 2**20:.2f} MiB an image)" if size else ""
        logger.info("feature cache %s: %d images%s", folder, count, sizes)
    return files


def with_feature_cache(
    dataset: ExampleDataset[ItemT],
    directory: str | None,
    training: LlavaTrainingArguments,
    model: ModelArguments,
    pipeline: ImagePipeline,
) -> tuple[ExampleDataset[ItemT], FeatureFiles | None]:
    """The data of a `transformers.Trainer` program and the feature cache of its base, where `--feature_cache` names one.

    Raises:
        ValueError: as `open_feature_cache`; ZeRO-3, whose processes must all run the tower or none.
    """
    if directory is None:
        return dataset, None
    if is_deepspeed_zero3_enabled():
        raise ValueError(NO_CACHE_UNDER_ZERO_3)
    dtype = model.base_settings(training.bf16, training.fp16, "cpu").compute_dtype
    main_process = training.process_index == 0
    files = open_feature_cache(directory, training.model_name_or_path, pipeline, dtype, main_process)
    return dataset.with_features(files), files


def ingredients(base: str | Path, pipeline: ImagePipeline, dtype: torch.dtype) -> dict[str, Any]:
    """All that features depend on besides the image file; if any of it differs, other files are used."""
    return {
        "format": FORMAT,
        "tower and projector": vision_fingerprint(base),
        "dtype": str(dtype),
        "image_aspect_ratio": pipeline.image_aspect_ratio,
        "image_processor": {"class": type(pipeline.processor).__name__, **pipeline.processor.to_dict()},
        # Their code makes pixels and features.
        "packages": {name: importlib.metadata.version(name) for name in ("transformers", "pillow")},
    }
