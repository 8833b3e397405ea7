"""The vision-language base: loading, image features, hidden states. What is LLaVA about LLaVA stands here.

Another Hugging Face image-text model comes in through this file: image token, number of image positions, the names of
tower and projector, and where LoRA may go.

Left out on purpose: training or LoRA on the vision tower and projector (frozen in all three stages of the method).

Shape letters: `B` rows, `L` positions, `S` image slots (one per `<image>` in the batch, in row order), `K` positions of
one image, `D` hidden size, `V` vocabulary, `H W` pixels. Masks are bool, True means "counts".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache

from models.base_files import positions_of_one_image
from models.base_kind import check_kind
from models.matrix_products import use_frozen_products
from models.quantized import compute_alike_in_both_modes
from models.settings import DTYPE_NAMES

# bitsandbytes matches these against the start of the full module name; without them it would quantise the vision
# tower and the projector too.
FULL_PRECISION_MODULES = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]

DTYPES = {name: getattr(torch, name) for name in DTYPE_NAMES}


@dataclass(frozen=True)
class BaseSettings:
    """How to load a base.

    Attributes:
        bits: 32 or 16 keep the weights in `compute_dtype`, 8 is LLM.int8(), 4 is NF4 or FP4 (QLoRA, arXiv 2305.14314).
        compute_dtype: float32, bfloat16 or float16: of activations and unquantised weights.
        quant_type: `nf4` or `fp4`; read at 4 bits only.
        double_quant: quantise the quantisation constants too; read at 4 bits only.
        attn_implementation: `sdpa`, `eager` or `flash_attention_2`.
        device: where the weights go, for example `cpu` or `cuda:1`.
    """

    bits: int = 16
    compute_dtype: torch.dtype = torch.float32
    quant_type: str = "nf4"
    double_quant: bool = True
    attn_implementation: str = "sdpa"
    device: str = "cpu"

    def quantization_config(self) -> BitsAndBytesConfig | None:
        """bitsandbytes settings, or None for 16 and 32 bits. Raises ValueError for any other number of bits."""
        if self.bits in (16, 32):
            return None
        if self.bits not in (4, 8):
            raise ValueError(f"--bits {self.bits}: choose 4, 8, 16 or 32")
        return BitsAndBytesConfig(
            load_in_4bit=self.bits == 4,
            load_in_8bit=self.bits == 8,
            llm_int8_skip_modules=FULL_PRECISION_MODULES,
            bnb_4bit_compute_dtype=self.compute_dtype,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_quant_type=self.quant_type,
        )


class VisionLanguageModel(nn.Module):
    """A frozen `LlavaForConditionalGeneration` with the few operations that the roles need.

    Rows are independent of their neighbours: positions are counted from a row's first real token, and image features
    are placed slot by slot in row order.
    """

    def __init__(self, model: LlavaForConditionalGeneration, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = use_frozen_products(model.requires_grad_(False))
        self.compute_dtype = compute_dtype
        config = model.config
        self.image_token_id: int = config.image_token_id
        self.tokens_per_image: int = positions_of_one_image(config)
        self.hidden_size: int = config.get_text_config().hidden_size
        self.vocab_size: int = config.get_text_config().vocab_size

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.model.device

    def encode_images(self, pixel_values: Tensor | None, image_index: Tensor | None) -> Tensor | None:
        """Image features, one entry for each slot.

        Args:
            pixel_values: float[N, 3, H, W], the distinct images; None when the batch has none.
            image_index: int64[S], for each image slot in row order the index of its image.

        Returns:
            float[S, K, D] without gradient, or None when there are no images. Each distinct image is encoded once.
        """
        images = pixel_values is not None and image_index is not None and image_index.numel() > 0
        if not images and not hasattr(next(self.model.model.vision_tower.parameters()), "ds_id"):
            return None
        if not images:  # ZeRO-3: another process may have some, and its tower is put together by all of them
            pixel_values = torch.zeros(1, 3, *[self.model.config.vision_config.image_size] * 2)
        with torch.no_grad():
            pixels = pixel_values.to(self.device, self.model.model.vision_tower.dtype)
            features = self.model.get_image_features(pixel_values=pixels).pooler_output
            return torch.stack(tuple(features))[image_index.to(self.device)] if images else None

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """Final normed hidden states; the vocabulary projection is left to whoever needs logits (`project`).

        Args:
            input_ids: int64[B, L], each image as `tokens_per_image` image tokens.
            mask: bool[B, L], True at real tokens; with a cache bool[B, past + L]. None: padding stands behind every row,
                and nobody reads what is computed there, so that causal attention needs no mask.
            image_features: float[S, K, D] for the slots of these rows in order.
            past_key_values: a key/value cache, extended in place.

        Returns:
            float[B, L, D]. Raises ValueError when image tokens and features do not match.
        """
        embeds = self.model.get_input_embeddings()(input_ids)
        places = input_ids == self.image_token_id
        n_features = 0 if image_features is None else image_features.shape[0] * image_features.shape[1]
        # Decoding steps carry no image: the check (a device synchronisation) runs on prompts and whole sequences only.
        if input_ids.shape[1] > 1:
            n_places = int(places.sum())
            if n_places != n_features:
                raise ValueError(f"{n_places} image positions in the text, {n_features} image features")
        if image_features is not None:
            embeds = embeds.masked_scatter(places.unsqueeze(-1), image_features.to(embeds.dtype))
        columns = torch.arange(input_ids.shape[1] if mask is None else mask.shape[1], device=input_ids.device)
        position_ids = columns.unsqueeze(0)
        if mask is not None:
            # Real tokens are counted; columns behind a row's last one, which matter where padding counts, are counted on.
            behind_last = (columns - (mask * columns).amax(dim=1, keepdim=True)).clamp(min=0)
            position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0) + behind_last
        output = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=None if mask is None else mask.long(),
            position_ids=position_ids[:, -input_ids.shape[1] :],
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        )
        return output.last_hidden_state

    def decode(self, token: Tensor, mask: Tensor | None, position_ids: Tensor, cache: Cache) -> Tensor:
        """One decoding step: a single token behind what the cache holds. Returns final normed hidden states float[B, D].

        Args:
            token: int64[B], no image tokens.
            mask: bool[B, past + 1], True at real tokens; None when all are.
            position_ids: int64[B, 1], counted from a row's first real token.
            cache: keys and values, extended in place.
        """
        if mask is not None and self.model.config.get_text_config()._attn_implementation == "sdpa":
            # The shape that attention needs: for any other transformers first looks whether all is True, and so waits
            # for the device at every token.
            mask = mask[:, None, None, :]
        output = self.model.model.language_model(
            inputs_embeds=self.model.get_input_embeddings()(token.unsqueeze(1)),
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def project(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits float[..., V] of hidden states float[..., D]."""
        return self.model.lm_head(hidden.to(self.model.lm_head.weight.dtype))


def lora_target_pattern(layers: tuple[str, ...] | list[str]) -> str:
    """A regular expression for PEFT that matches these linear layers in the language model only.

    A plain list of names such as `q_proj` would also match the attention of the CLIP tower.
    """
    return rf".*language_model.*\.({'|'.join(layers)})"


def load_base(path: str | Path, settings: BaseSettings) -> VisionLanguageModel:
    """Load a Hugging Face LLaVA directory, frozen.

    Raises:
        ValueError: the directory is not a LLaVA checkpoint in Hugging Face format (`check_kind` says what it is).
    """
    check_kind(path)
    quantization = settings.quantization_config()
    model = LlavaForConditionalGeneration.from_pretrained(
        path,
        dtype=settings.compute_dtype,
        attn_implementation=settings.attn_implementation,
        quantization_config=quantization,
        use_safetensors=True,
        device_map={"": settings.device} if quantization is not None else None,
    )
    if quantization is None:
        model.to(settings.device)
    else:
        compute_alike_in_both_modes(model)
    model.eval()
    return VisionLanguageModel(model, settings.compute_dtype)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base, with `unk` as padding when it names none (padding is masked by position, never by id).

    Raises:
        ValueError: the directory holds no `tokenizer.json`, or the tokenizer lacks bos, eos or the image token.
    """
    if not (Path(path) / "tokenizer.json").is_file():
        raise ValueError(
            f"{path} has no tokenizer.json: a fast tokenizer with the model's exact ids is needed"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} needs a begin-of-text and an end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_image_processor(path: str | Path) -> CLIPImageProcessorPil:
    """The image processor of a base (the Pillow one: it equals the original's pixels and needs no torchvision).

    Of a folder written for plain transformers, which has to pad there, the one that it was made from: we pad ourselves.
    """
    processor = CLIPImageProcessorPil.from_pretrained(path)
    pads = getattr(processor, "do_pad", None)
    if pads is None:
        return processor
    return CLIPImageProcessorPil.from_pretrained(
        path, do_pad=None, do_convert_rgb=pads or processor.do_convert_rgb
    )
