"""The vision-language base: loading, image features, hidden states. What families differ in stands in `models.families`.

Left out on purpose: training or LoRA on the vision tower and projector (frozen in all three stages of the method).

Shape letters: `B` rows, `L` positions, `S` image slots (one per `<image>` in the batch, in row order), `K` positions of
one image, which its family tells, `D` hidden size, `W` width of a feature, `V` vocabulary. Masks are bool, True means
"counts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache
from transformers.image_processing_utils import BaseImageProcessor

from models.base_files import read_family
from models.base_kind import check_kind
from models.divided_weights import is_divided
from models.families.base import Family, Grid
from models.families.registry import FAMILIES, family_of
from models.matrix_products import use_frozen_products
from models.packed_features import PackedFeatures, grids_of, pack
from models.positions import picture_positions, text_positions
from models.quantized import compute_alike_in_both_modes
from models.settings import DTYPE_NAMES

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

    def quantization_config(self, family: Family | type[Family]) -> BitsAndBytesConfig | None:
        """bitsandbytes settings, or None for 16 and 32 bits. Raises ValueError for any other number of bits."""
        if self.bits in (16, 32):
            return None
        if self.bits not in (4, 8):
            raise ValueError(f"--bits {self.bits}: choose 4, 8, 16 or 32")
        return BitsAndBytesConfig(
            load_in_4bit=self.bits == 4,
            load_in_8bit=self.bits == 8,
            llm_int8_skip_modules=full_precision_modules(family),
            bnb_4bit_compute_dtype=self.compute_dtype,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_quant_type=self.quant_type,
        )


def full_precision_modules(family: Family | type[Family]) -> list[str]:
    """What is not quantised.

    bitsandbytes matches these against the start of the full module name; without them it would quantise the towers too.
    """
    return [*family.towers.values(), "lm_head"]


class VisionLanguageModel(nn.Module):
    """A frozen model of any family with the few operations that the roles need.

    Rows are independent of their neighbours: positions are counted from a row's first real token, and image features
    are placed slot by slot in row order.
    """

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = use_frozen_products(model.requires_grad_(False))
        self.compute_dtype = compute_dtype
        self.family = family_of(model.config)
        self.image_token_id: int = self.family.image_token_id
        self.hidden_size: int = model.config.get_text_config().hidden_size
        self.vocab_size: int = model.config.get_text_config().vocab_size

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.model.device

    @property
    def language_model(self) -> nn.Module:
        """The part that reads embeddings and gives hidden states."""
        return self.family.language_model(self.model)

    @property
    def tower_is_divided(self) -> bool:
        """Whether processes hold a part each of the vision tower (ZeRO-3), so that all of them must run it together."""
        return is_divided(self.family.tower(self.model))

    def encode_images(
        self, pixel_values: Tensor | None, image_index: Tensor | None, image_grids: Tensor | None = None
    ) -> PackedFeatures | None:
        """Image features, one entry for each slot.

        Args:
            pixel_values: float[ΣP, …], the P rows of each distinct image; None when the batch has none.
            image_index: int64[S], for each image slot in row order the index of its image.
            image_grids: int64[N, G], how each image is cut up; None where all are alike, of one row.

        Returns:
            Features without gradient, or None when there are no images. Each distinct image is encoded once.
        """
        images = pixel_values is not None and image_index is not None and image_index.numel() > 0
        if not images and not self.tower_is_divided:
            return None
        if images:
            slots = image_index.tolist()
            grids = grids_of(image_grids, len(pixel_values))
        else:  # ZeRO-3: another process may have some, and its tower is put together by all of them
            pixel_values, grids = self.family.blank()
        features = self.encode_pictures(pixel_values, grids)
        return pack([features[i] for i in slots], [grids[i] for i in slots]) if images else None

    @torch.no_grad()
    def encode_pictures(self, pixel_values: Tensor, grids: Sequence[Grid]) -> Sequence[Tensor]:
        """Features float[K, W] of each picture, without gradient; `pixel_values` as in `encode_images`."""
        pixels = pixel_values.to(self.device, self.family.tower(self.model).dtype)
        return self.family.encode(self.model, pixels, grids)

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None = None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """Final normed hidden states; the vocabulary projection is left to whoever needs logits (`project`).

        Args:
            input_ids: int64[B, L], each image as the placeholder of its family.
            mask: bool[B, L], True at real tokens; with a cache bool[B, past + L]. None: padding stands behind every row,
                and nobody reads what is computed there, so that causal attention needs no mask.
            image_features: of the slots of these rows in order.
            past_key_values: a key/value cache, extended in place.

        Returns:
            float[B, L, D]. Raises ValueError when image tokens and features do not match.
        """
        return self._read(input_ids, mask, image_features, past_key_values)[0]

    def read_prompts(
        self, input_ids: Tensor, mask: Tensor, image_features: PackedFeatures | None, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, of left-padded prompts and into an empty cache.

        Returns:
            float[B, D] of the last column, and the position int64[B, 1] that the token behind it will have.
        """
        hidden, following = self._read(input_ids, mask, image_features, cache)
        return hidden[:, -1], mask.sum(dim=1, keepdim=True) if following is None else following

    def _read(
        self,
        input_ids: Tensor,
        mask: Tensor | None,
        image_features: PackedFeatures | None,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states, and the position behind each row; None where it is the number of its tokens."""
        embeds = self.model.get_input_embeddings()(input_ids)
        places = input_ids == self.image_token_id
        table, following = None, None
        # Decoding steps carry no image: the check (a device synchronisation) runs on prompts and whole sequences only.
        if input_ids.shape[1] > 1:
            n_places = int(places.sum())
            n_features = 0 if image_features is None else len(image_features.table)
            if n_places != n_features:
                raise ValueError(f"{n_places} image positions in the text, {n_features} image features")
        if image_features is not None:
            table = image_features.table.to(embeds.dtype)
            embeds = embeds.masked_scatter(places.unsqueeze(-1), self.family.input_features(table))
        lying = [self.family.place(grid) for grid in image_features.grids] if image_features else []
        if lying and lying[0] is not None:
            position_ids, following = picture_positions(places, mask, lying)
        else:
            columns = input_ids.shape[1] if mask is None else mask.shape[1]
            position_ids = text_positions(mask, columns, input_ids.device)
        output = self.language_model(
            inputs_embeds=embeds,
            attention_mask=self.family.attention_mask(mask, None if table is None else places, embeds, cache),
            position_ids=position_ids[..., -input_ids.shape[1] :],
            past_key_values=cache,
            use_cache=cache is not None,
            **self.family.language_kwargs(places, table),
        )
        return output.last_hidden_state, following

    def decode(self, token: Tensor, mask: Tensor | None, position_ids: Tensor, cache: Cache) -> Tensor:
        """One decoding step: a single token behind what the cache holds. Returns final normed hidden states float[B, D].

        Args:
            token: int64[B], no image tokens.
            mask: bool[B, past + 1], True at real tokens; None when all are.
            position_ids: int64[B, 1], as `read_prompts` gives the first; one more for each token.
            cache: keys and values, extended in place.
        """
        if mask is not None and self.model.config.get_text_config()._attn_implementation == "sdpa":
            # The shape that attention needs: for any other transformers first looks whether all is True, and so waits
            # for the device at every token.
            mask = self.family.decode_mask(mask[:, None, None, :])
        output = self.language_model(
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


def load_base(path: str | Path, settings: BaseSettings) -> VisionLanguageModel:
    """Load a directory in Hugging Face format, frozen.

    Raises:
        ValueError: the directory is no checkpoint of a family that is supported (`check_kind` says what it is), or its
            attention can't be computed by these kernels.
    """
    family = FAMILIES[check_kind(path)["model_type"]]
    if settings.attn_implementation not in family.attention_kernels:
        raise ValueError(
            f"--attn_implementation {settings.attn_implementation} can't compute the attention of a {family.title} ({path}); "
            f"use {' or '.join(family.attention_kernels)}"
        )
    quantization = settings.quantization_config(family)
    model = family.model_class().from_pretrained(
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
        ValueError: the directory holds no `tokenizer.json`, or the tokenizer lacks eos, or bos where the family has one.
    """
    if not (Path(path) / "tokenizer.json").is_file():
        raise ValueError(
            f"{path} has no tokenizer.json: a fast tokenizer with the model's exact ids is needed"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} needs an end-of-text token")
    if tokenizer.bos_token_id is None and read_family(path).begins_with_bos:
        raise ValueError(f"the tokenizer of {path} needs a begin-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_image_processor(path: str | Path) -> BaseImageProcessor:
    """The image processor of a base, which needs no torchvision. Raises ValueError when the directory is no base."""
    return read_family(path).load_image_processor(path)
