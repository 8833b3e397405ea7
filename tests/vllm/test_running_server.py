"""A server that scripts/serve_policy.sh has started: it answers, takes adapters, asks for its key, and is started again."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_utils.image_choices import ImageChoices
from llava_rlhf import initialize_policy_model
from llava_rlhf.assembly.image_choices import fit_processor
from llava_rlhf.assembly.roles import new_policy
from llava_rlhf.engines.serving import SERVED_NAME, TESTED_VERSIONS
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.role_files import find_policy_adapter
from models.adapter_files import ADAPTER_WEIGHTS
from models.base_files import read_family
from models.vlm import BaseSettings, load_image_processor
from tests.support.vllm_server import TINY_BASE, VLLMServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
PROMPT = [1, 5, 6, 7]
QWEN = TINY_BASE.with_name("base-qwen2_5_vl")
SIZE = (168, 168)  # pixels


def save_adapter(base: Path, folder: Path) -> Path:
    """A policy's adapter as our programs save it, of another rank than the server's, with weights that do something."""
    policy = new_policy(base, BaseSettings(), AdapterArguments(lora_r=20), False)
    initialize_policy_model.save_policy(policy, str(base), folder)
    found = find_policy_adapter(folder)
    weights, generator = load_file(found / ADAPTER_WEIGHTS), torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if "lora_B" in name:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    save_file(weights, found / ADAPTER_WEIGHTS, {"format": "pt"})
    return found


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return save_adapter(TINY_BASE, tmp_path_factory.mktemp("vllm") / "policy")


def log_prob(server: VLLMServer, model: str) -> tuple[int, float]:
    """Status, and the log-probability of the most likely token behind `PROMPT`."""
    sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 0}
    body = {"model": model, "token_ids": PROMPT, "sampling_params": sampling, "return_token_ids": True}
    status, reply = server.call("/inference/v1/generate", body)
    if status != 200:
        return status, 0.0
    assert reply["prompt_token_ids"] == PROMPT and len(reply["choices"][0]["token_ids"]) == 1
    return status, reply["choices"][0]["logprobs"]["content"][0]["logprob"]


def load(server: VLLMServer, name: str, folder: Path) -> int:
    return server.call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})[0]


def test_it_says_what_it_serves(vllm_server):
    assert vllm_server.call("/version") == (200, {"version": TESTED_VERSIONS[0]})
    _, models = vllm_server.call("/v1/models")
    (base,) = [card for card in models["data"] if card["parent"] is None]
    assert (base["id"], base["root"], base["max_model_len"]) == (SERVED_NAME, str(TINY_BASE), 512)
    status, _ = log_prob(vllm_server, SERVED_NAME)
    assert status == 200


def test_an_adapter_of_ours_is_loaded_changes_the_answers_and_is_unloaded(vllm_server, adapter):
    name = "test-serving"
    _, plain = log_prob(vllm_server, SERVED_NAME)
    assert load(vllm_server, name, adapter) == 200
    _, adapted = log_prob(vllm_server, name)
    assert abs(adapted - plain) > 1e-3
    assert log_prob(vllm_server, SERVED_NAME)[1] == pytest.approx(plain, abs=1e-5)
    assert vllm_server.call("/v1/unload_lora_adapter", {"lora_name": name})[0] == 200
    assert log_prob(vllm_server, name)[0] == 404


def test_a_key_is_asked_for_and_a_killed_server_is_started_again_without_its_adapters(start_vllm, adapter):
    server = start_vllm(VLLM_API_KEY="secret", HOST="0.0.0.0", LORA_RANK="20")
    stranger = replace(server, variables={**server.variables, "VLLM_API_KEY": ""})
    body = {"name": "theirs", "src": str(adapter)}  # of /adapters, where vLLM itself asks for no key
    for path in ("/v1/load_lora_adapter", "/adapters", "/invocations", "/inference/v1/generate"):
        assert stranger.call(path, body)[0] == 401, path
    assert stranger.call("/v1/models")[0] == 401 and stranger.healthy()
    assert load(server, "ours", adapter) == 200 and log_prob(server, "ours")[0] == 200
    assert "secret" not in server.log.read_text()
    server.kill()
    assert not server.healthy()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.group, 0)  # the engine and its worker are gone, too
    server.start()
    assert log_prob(server, SERVED_NAME)[0] == 200 and log_prob(server, "ours")[0] == 404


def test_a_qwen_sees_pictures_in_the_limits_of_training(start_vllm, tmp_path):
    limits = {
        "min_pixels": 4 * 784,
        "max_pixels": 20 * 784,
    }  # a position is 28 x 28 pixels; its file says 9 to 36
    server = start_vllm(BASE_MODEL=str(QWEN), **{name.upper(): str(limit) for name, limit in limits.items()})
    family, processor = read_family(QWEN), load_image_processor(QWEN)
    own = family.positions(processor, SIZE)
    fit_processor(processor, ImageChoices(**limits), QWEN, family)
    fitted = family.positions(processor, SIZE)
    assert fitted < own
    config = family.config
    ids = [7, config.vision_start_token_id, config.image_token_id, config.vision_end_token_id, 8]
    picture = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(picture, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    assert load(server, "ours", save_adapter(QWEN, tmp_path / "policy")) == 200
    found = {}
    for model in (SERVED_NAME, "ours"):
        body = {
            "model": model,
            "token_ids": ids,
            "content_parts": [{"type": "image_url", "url": url}],
            "sampling_params": {"temperature": 0, "max_tokens": 1, "logprobs": 0},
            "return_token_ids": True,
        }
        status, reply = server.call("/inference/v1/generate", body)
        assert status == 200, reply
        assert reply["prompt_token_ids"] == [7, *family.placeholder((4 * (fitted - 2),)), 8]
        found[model] = reply["choices"][0]["logprobs"]["content"][0]["logprob"]
    assert abs(found["ours"] - found[SERVED_NAME]) > 1e-3
