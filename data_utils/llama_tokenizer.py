"""A bare sentencepiece `tokenizer.model` → a fast tokenizer that gives sentencepiece's own ids.

The conversion built into transformers 5 orders merges by vocabulary index; Llama's runs of spaces have early indices
and the lowest score, so texts with a leading space come out differently. Here merges are ordered by score.
"""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from data_utils.tokens import SPACE_PIECE


def load_sentencepiece_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Read a sentencepiece BPE model with byte fallback (Llama, Vicuna).

    The result adds no BOS (the encoder does) and pads with `<unk>`, as the released checkpoints do.
    `save_pretrained` writes a `tokenizer.json` that keeps the ids. Raises ValueError when the file is missing.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected a sentencepiece tokenizer.model")
    model = SentencePieceProcessor(str(path))
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    unknown = pieces[model.unk_id()]
    merges = _merges_by_score(model, vocab)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE_PIECE), normalizers.Replace(" ", SPACE_PIECE)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE_PIECE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    begin, end = pieces[model.bos_id()], pieces[model.eos_id()]
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (unknown, begin, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unknown, bos_token=begin, eos_token=end, pad_token=unknown
    )


def _merges_by_score(model: SentencePieceProcessor, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for piece, index in vocab.items():
        if model.is_control(index) or model.is_unknown(index) or model.is_byte(index):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((-model.get_score(index), vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]
