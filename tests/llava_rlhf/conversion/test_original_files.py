"""Pickles that may hold nothing but tensors, and folders of weight shards. Everything is written by torch or safetensors."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_rlhf.conversion import original_files
from llava_rlhf.conversion.original_files import (
    StoredTensor,
    open_weights,
    read_headers,
    read_pickle,
    read_tensors,
)
from tests.support.original_models import write_json, write_weights

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class TouchesAFile:
    """Unpickling this creates a file: what a hostile checkpoint does."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def weights(count: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{index}": torch.randn(index + 1, 3, generator=generator).half() for index in range(count)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


# --- one pickle


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_pickle_of_tensors_is_read(tmp_path, zipped, mmap):
    torch.save(weights(), tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    assert_same(read_pickle(tmp_path / "w.bin", mmap), weights())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("mmap", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, zipped, mmap):
    victim = tmp_path / "victim"
    torch.save(
        weights() | {"x": TouchesAFile(victim)}, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        ValueError, match=r"w\.bin: its pickle wants to run code \(\S*open\).*ask its author for safetensors"
    ):
        read_pickle(tmp_path / "w.bin", mmap)
    assert not victim.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_with_code_is_refused(tmp_path, protocol):
    victim = tmp_path / "victim"
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"x": TouchesAFile(victim)}, protocol=protocol))
    with pytest.raises(ValueError, match=r"w\.bin: its pickle wants to .*ask its author for safetensors"):
        read_pickle(tmp_path / "w.bin")
    assert not victim.exists()


def test_saved_arguments_are_refused_by_the_name_of_their_class(tmp_path):
    torch.save(argparse.Namespace(lr=1.0), tmp_path / "training_args.bin")
    with pytest.raises(ValueError, match=r"argparse\.Namespace"):
        read_pickle(tmp_path / "training_args.bin")


def broken_files(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """Contents of files that are no weights → what must be said."""
    torch.save(weights(), tmp_path / "zip")
    torch.save(weights(), tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(weights(), tmp_path / "safe")
    zipped, old, safe = ((tmp_path / name).read_bytes() for name in ("zip", "old", "safe"))
    corrupt = "is cut off, corrupt or not a"
    return {
        "empty.bin": (b"", "is empty"),
        "pointer.bin": (LFS_POINTER.encode(), "git-LFS pointer.*git lfs pull"),
        "half.bin": (zipped[: len(zipped) // 2], corrupt),
        "most.bin": (zipped[:-20], corrupt),
        "old.bin": (old[:-20], corrupt),
        "page.bin": (b"<html>404</html>", corrupt),
        "words.bin": (b"some words that are no pickle", corrupt),
        "empty.safetensors": (b"", "is empty"),
        "pointer.safetensors": (LFS_POINTER.encode(), "git-LFS pointer.*git lfs pull"),
        "most.safetensors": (safe[:-20], corrupt),
        "page.safetensors": (b"<html>404</html>", corrupt),
    }


def test_broken_files_are_named_with_what_is_wrong(tmp_path):
    for name, (content, message) in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\b.*{message}"):
            open_weights(tmp_path / name)
    with pytest.raises(ValueError, match=r"gone\.bin: no such file"):
        open_weights(tmp_path / "gone.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, not a dict"),
        ({"model": {"a": torch.ones(2)}}, "'model' is a dict"),
        ({"a": torch.ones(2), "step": 3}, "'step' is a int"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is a Tensor, not a dense tensor"),
    ],
)
def test_a_file_that_is_no_dict_of_dense_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=message):
        open_weights(tmp_path / "w.bin")


# --- a folder of shards


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
@pytest.mark.parametrize(("shards", "index"), [(1, True), (3, True), (3, False)])
def test_headers_and_values_are_what_was_written(tmp_path, ending, shards, index):
    write_weights(tmp_path, weights(), shards, ending, index)
    headers = read_headers(tmp_path)
    assert {name: (item.dtype, item.shape, item.nbytes) for name, item in headers.items()} == {
        name: (value.dtype, tuple(value.shape), value.numel() * 2) for name, value in weights().items()
    }
    assert len({item.file for item in headers.values()}) == shards
    assert_same(dict(zip(headers, read_tensors(headers.values()), strict=True)), weights())


def test_safetensors_go_before_a_pickle(tmp_path):
    write_weights(tmp_path, {"a": torch.ones(1)}, ending="bin")
    write_weights(tmp_path, {"a": torch.zeros(1)}, ending="safetensors")
    assert read_headers(tmp_path)["a"].file.name == "model.safetensors"


def test_a_view_of_a_large_block_counts_with_what_it_shows(tmp_path):
    block = torch.arange(1000.0)
    torch.save(
        {"a": block[:4], "b": block[4:6].expand(2, 2), "same": block[:4]}, tmp_path / "pytorch_model.bin"
    )
    headers = read_headers(tmp_path)
    assert {name: item.nbytes for name, item in headers.items()} == {"a": 16, "b": 16, "same": 16}
    a, b, same = read_tensors(headers.values())
    assert (a.tolist(), b.tolist(), same.tolist()) == ([0, 1, 2, 3], [[4, 5], [4, 5]], [0, 1, 2, 3])


def break_index(folder: Path, **changes: str | None) -> None:
    """Rewrite the index of 7 layers in 3 shards; None leaves a weight out."""
    files = {name: f"model-0000{1 + index // 3}-of-00003.safetensors" for index, name in enumerate(weights())}
    files |= changes
    write_json(
        folder / "model.safetensors.index.json",
        {"weight_map": {name: file for name, file in files.items() if file is not None}},
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer.9": "model-00001-of-00003.safetensors"}, r"names 1 weight\(s\).*layer\.9"),
        ({"layer.0": "model-00002-of-00003.safetensors"}, r"names 1 weight\(s\).*layer\.0"),
        ({"layer.0": "model-extra.safetensors"}, r"model-extra\.safetensors: no such file"),
        ({"layer.0": "../elsewhere.safetensors"}, "must name files beside it"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path, changes, message):
    write_weights(tmp_path, weights(), 3, "safetensors")
    break_index(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_headers(tmp_path)


def test_a_weight_that_the_index_forgets_is_read_all_the_same(tmp_path):
    write_weights(tmp_path, weights(), 3, "safetensors")
    break_index(tmp_path, **{"layer.0": None})
    assert "layer.0" in read_headers(tmp_path)


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(tmp_path, index):
    write_weights(tmp_path, weights(), 3, "bin", index)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ValueError, match=r"shard\(s\) \[2\] of 3 of pytorch_model\.bin are missing"):
        read_headers(tmp_path)


def test_a_weight_in_two_shards_is_refused(tmp_path):
    write_weights(tmp_path, weights(), 3, "bin", index=False)
    torch.save({"layer.0": torch.ones(1)}, tmp_path / "pytorch_model-00003-of-00003.bin")
    with pytest.raises(ValueError, match=r"layer\.0 is in two files.*00001-of-00003.*00003-of-00003"):
        read_headers(tmp_path)


def test_folders_that_leave_a_choice_or_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        read_headers(tmp_path)
    write_weights(tmp_path, weights(), 3, "bin", index=False)
    torch.save(weights(), tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="shards of several models"):
        read_headers(tmp_path)
    (tmp_path / "pytorch_model-00001-of-00002.bin").unlink()
    torch.save(weights(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin and also shards"):
        read_headers(tmp_path)


def test_an_index_that_is_no_index_is_refused(tmp_path):
    write_weights(tmp_path, weights(), 3, "bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json is not an index of shards"):
        read_headers(tmp_path)


def test_a_file_is_mapped_afresh_before_too_much_of_it_was_read(tmp_path, monkeypatch):
    write_weights(tmp_path, {str(index): torch.full((100,), float(index)) for index in range(6)})
    opened = []
    monkeypatch.setattr(original_files, "MAPPED_BYTES", 1000)  # two tensors of 400 bytes, not three
    monkeypatch.setattr(
        original_files, "open_weights", lambda path: opened.append(path) or open_weights(path)
    )
    headers = read_headers(tmp_path)
    opened.clear()
    values = [float(tensor[0]) for tensor in read_tensors(headers.values())]
    assert values == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(opened) == 3


def test_the_old_pickle_format_cannot_be_mapped_and_is_read_once(tmp_path, monkeypatch):
    torch.save(weights(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    opened = []
    monkeypatch.setattr(original_files, "MAPPED_BYTES", 1)
    monkeypatch.setattr(
        original_files, "open_weights", lambda path: opened.append(path) or open_weights(path)
    )
    headers = read_headers(tmp_path)
    opened.clear()
    assert_same(dict(zip(headers, read_tensors(headers.values()), strict=True)), weights())
    assert len(opened) == 1


def test_bytes_follow_from_shape_and_format():
    assert StoredTensor("a", Path("x"), torch.float16, (3, 5)).nbytes == 30
    assert StoredTensor("a", Path("x"), torch.float32, ()).nbytes == 4
