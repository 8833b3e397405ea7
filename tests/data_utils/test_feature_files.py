"""Features on disk: whole or absent, the same for every process, never those of another picture."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_utils.batches import DialogueCollator, PairCollator, collate_prompts
from data_utils.feature_files import STALE_SECONDS, UNFINISHED, FeatureFiles, content_key, read_images
from data_utils.items import DialogueItem, PairItem, PromptItem
from data_utils.schema import AnswerType

SHAPE = (4, 8)
FORK = multiprocessing.get_context("fork")  # the child starts at once, with everything imported


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def features_of(number: int, shape=SHAPE) -> torch.Tensor:
    return torch.full(shape, float(number % 97), dtype=torch.bfloat16)


@pytest.fixture
def files(tmp_path) -> FeatureFiles:
    return FeatureFiles(tmp_path / "cache", SHAPE)


def in_child(work, *arguments):
    """What `work` returns in a process of its own, which must end well."""
    receive, send = FORK.Pipe(duplex=False)
    child = FORK.Process(target=lambda: send.send(work(*arguments)))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return receive.recv()


def test_what_is_stored_is_read_back_rounded(files):
    exact = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    assert files.load(key_of(1)) is None
    kept = files.store(key_of(1), exact)
    assert torch.equal(kept, exact.bfloat16())
    again = FeatureFiles(files.folder, SHAPE)
    assert torch.equal(again.load(key_of(1)), kept) and again.count() == 1
    # What another reader of safetensors finds there.
    path = files.folder / key_of(1)[:2] / f"{key_of(1)}.safetensors"
    assert torch.equal(load_file(path)["features"], kept)
    assert files.bytes_per_image == 4 * 8 * 2 and again.load(key_of(2)) is None


def test_who_comes_second_takes_what_is_there(files):
    files.store(key_of(1), features_of(1))
    assert torch.equal(files.store(key_of(1), features_of(2)), features_of(1))
    assert list((files.folder / UNFINISHED).iterdir()) == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_kept(broken, files):
    features = features_of(1).clone()
    features[0, 0] = broken
    assert torch.equal(files.store(key_of(1), features).isfinite(), features.isfinite())
    assert files.load(key_of(1)) is None
    assert torch.equal(files.store(key_of(1), features_of(1)), features_of(1))


def test_a_folder_deleted_meanwhile_is_made_again(files):
    shutil.rmtree(files.folder)
    assert files.load(key_of(1)) is None
    files.store(key_of(1), features_of(1))
    assert torch.equal(files.load(key_of(1)), features_of(1))


def write_forever(folder: Path, shape: tuple[int, int], start: int) -> None:
    files = FeatureFiles(folder, shape)
    for number in range(start, 10**9):
        files.store(key_of(number), features_of(number, shape))


def test_a_kill_at_any_moment_leaves_whole_files(tmp_path, caplog):
    shape = (512, 2048)  # 2 MiB: many kills fall into a write
    files, moments = FeatureFiles(tmp_path, shape), random.Random(0)
    for round_ in range(10):
        child = FORK.Process(target=write_forever, args=(tmp_path, shape, 1000 * round_))
        child.start()
        before, deadline = files.count(), time.monotonic() + 30
        while files.count() < before + 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
    numbers = {
        key_of(number): number for start in range(10) for number in range(1000 * start, 1000 * start + 500)
    }
    found = [path.stem for path in tmp_path.glob("??/*.safetensors")]
    assert len(found) == files.count() >= 20
    for key in found:
        assert torch.equal(files.load(key), features_of(numbers[key], shape))
    assert caplog.text == ""


def test_what_killed_processes_left_is_removed_once_it_is_old(files):
    old, young = (files.folder / UNFINISHED / name for name in ("old", "young"))
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, time.time() - STALE_SECONDS - 60))
    FeatureFiles(files.folder, SHAPE)
    assert not old.exists() and young.exists()
    assert files.count() == 0


def test_processes_that_store_the_same_images_agree(tmp_path):
    barrier, results = FORK.Barrier(3), FORK.Queue()

    def work(process: int) -> None:
        files = FeatureFiles(tmp_path / "cache", SHAPE)
        barrier.wait()
        results.put([int(files.store(key_of(number), features_of(process))[0, 0]) for number in range(200)])

    children = [FORK.Process(target=work, args=(process,)) for process in (1, 2, 3)]
    for child in children:
        child.start()
    first, second, third = (results.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
    assert first == second == third
    files = FeatureFiles(tmp_path / "cache", SHAPE)
    assert [int(files.load(key_of(number))[0, 0]) for number in range(200)] == first
    assert files.count() == 200 and list((files.folder / UNFINISHED).iterdir()) == []


@pytest.mark.parametrize("damage", ["cut off", "empty", "no safetensors", "another shape", "another format"])
def test_a_damaged_file_is_said_once_and_replaced(damage, files, caplog):
    paths = []
    for number in (1, 2):
        files.store(key_of(number), features_of(number))
        path = files.folder / key_of(number)[:2] / f"{key_of(number)}.safetensors"
        paths.append(path)
        match damage:
            case "cut off":
                path.write_bytes(path.read_bytes()[:-1])
            case "empty":
                path.write_bytes(b"")
            case "no safetensors":
                path.write_bytes(b"\xff" * path.stat().st_size)
            case "another shape":
                save_file({"features": features_of(number).T.contiguous()}, path)
            case "another format":
                save_file({"features": features_of(number).half()}, path)
    assert files.load(key_of(1)) is None and files.load(key_of(2)) is None
    assert [record.getMessage().split()[0] for record in caplog.records] == [str(paths[0])]
    assert torch.equal(files.store(key_of(1), features_of(5)), features_of(5))
    assert torch.equal(files.load(key_of(1)), features_of(5))


def test_a_full_disk_is_said_once_and_nothing_stops(tmp_path):
    folder = tmp_path / "cache"
    FeatureFiles(folder, SHAPE).store(key_of(1), features_of(1))

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may grow beyond 100 bytes
        files, said = FeatureFiles(folder, SHAPE), []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger("data_utils.feature_files").addHandler(handler)
        kept = [files.store(key_of(number), torch.full(SHAPE, 1 / 3)) for number in (2, 3)]
        return said, [one.float().tolist() for one in kept], files.load(key_of(1)).float().tolist()

    said, kept, read = in_child(work)
    assert len(said) == 1 and "no longer stored" in said[0] and "File too large" in said[0]
    assert (
        kept == [torch.full(SHAPE, 1 / 3).bfloat16().float().tolist()] * 2
    )  # rounded as if they were stored
    assert read == features_of(1).float().tolist()
    files = FeatureFiles(folder, SHAPE)
    assert files.count() == 1 and list((folder / UNFINISHED).iterdir()) == []


def test_a_folder_that_cannot_be_written_is_read_if_it_holds_anything():
    outside = Path(tempfile.mkdtemp())  # pytest's own folders may be entered by their owner only

    def work(folder):
        if os.getuid() == 0:
            os.setuid(65534)  # to whom permissions apply
        try:
            files = FeatureFiles(folder, SHAPE)
        except ValueError as error:
            return str(error)
        return files.writable, files.load(key_of(1)) is not None, files.store(key_of(2), features_of(2)).shape

    try:
        FeatureFiles(outside / "filled", SHAPE).store(key_of(1), features_of(1))
        FeatureFiles(outside / "empty", SHAPE)
        for path in (*outside.rglob("*"), outside):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert in_child(work, outside / "filled") == (False, True, SHAPE)
        for name in ("empty", "missing"):
            assert f"{outside / name} can't be made or written (" in in_child(work, outside / name)
        assert not (outside / "filled" / key_of(2)[:2]).exists()
    finally:
        for path in (outside, *outside.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(outside)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be made or written"):
        FeatureFiles(tmp_path / "file" / "cache", SHAPE)


def test_an_image_is_known_by_its_bytes(folder, pipeline, files):
    for name in ("a.png", "b.png"):  # of one length: what stands behind the end of a PNG is not read
        (folder / name).write_bytes((folder / name).read_bytes().ljust(80, b"\0"))
    _, before = read_images(pipeline, files, folder, ["a.png"])
    files.store(before.keys[0], features_of(1))
    assert read_images(pipeline, files, folder, ["a.png"])[1].features[0] is not None
    shutil.copy(folder / "a.png", folder / "copy.png")
    os.utime(folder / "a.png", (0, 0))
    for name in ("copy.png", "a.png"):  # copied, touched: the same picture
        assert read_images(pipeline, files, folder, [name])[1].features[0] is not None
    kept = (folder / "a.png").stat()
    content = (folder / "b.png").read_bytes()
    assert len(content) == kept.st_size
    (folder / "a.png").write_bytes(content)  # another picture of the same name, size and time
    os.utime(folder / "a.png", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (pixels, _), after = read_images(pipeline, files, folder, ["a.png"])
    assert after.features == (None,) and after.keys != before.keys
    assert pixels.mean((2, 3)).argmax(1).tolist() == [1]  # green


def test_stored_images_are_not_decoded(folder, pipeline, files):
    (folder / "broken.png").write_bytes(b"nothing that could be decoded")
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_images(pipeline, files, folder, ["broken.png"])
    files.store(content_key(folder / "broken.png"), features_of(3))
    (pixels, _), stored = read_images(pipeline, files, folder, ["a.png", "broken.png", "c.png"])
    assert [found is None for found in stored.features] == [True, False, True]
    assert pixels.mean((2, 3)).argmax(1).tolist() == [0, 2]  # a.png is red, c.png blue
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read"):
        read_images(pipeline, files, folder, ["gone.png"])


def test_pixels_of_a_file_replaced_meanwhile_do_not_get_the_old_key(folder, pipeline, files):
    first = content_key(folder / "a.png")

    def replacing(where, names):
        (folder / "a.png").write_bytes((folder / "b.png").read_bytes())
        return pipeline(where, names)

    (pixels, _), stored = read_images(replacing, files, folder, ["a.png"])
    assert pixels.mean((2, 3)).argmax(1).tolist() == [1]  # green
    assert stored.keys == (content_key(folder / "b.png"),) != (first,)


def test_rows_in_a_batch_by_hand(folder, pipeline, files):
    """a.png and c.png are stored, b.png is not."""
    for name, number in {"a.png": 1, "c.png": 3}.items():
        files.store(content_key(folder / name), features_of(number))
    rows = [
        read_images(pipeline, files, folder, names)
        for names in (["c.png", "b.png"], [], ["b.png"], ["a.png"])
    ]
    prompts = [
        PromptItem(0, "", [], [], (), pictures.pixels, None, AnswerType.GENERAL, 1.0, (), "", stored)
        for pictures, stored in rows
    ]
    batch = collate_prompts(prompts)
    images = batch.images
    assert images.pixel_values.mean((2, 3)).argmax(1).tolist() == [1, 1]  # b.png is green
    assert [one[0, 0].item() for one in images.stored_features()] == [3.0, 1.0]
    assert images.image_index.tolist() == [2, 0, 1, 3]
    assert [bytes(key).hex() for key in images.image_keys.tolist()] == [content_key(folder / "b.png")] * 2
    assert all(item.stored is None for item in batch.items)
    some = images.only([3, 1, 2])
    assert some.pixel_values.shape[0] == 1
    assert [one[0, 0].item() for one in some.stored_features()] == [1.0, 3.0]
    assert some.image_index.tolist() == [1, 0, 2] and torch.equal(some.image_keys, images.image_keys[1:])
    pairs = PairCollator(0, 9, lambda grid: [9])([PairItem(([9], [9]), p.pixels, 1, s) for p, s in rows])
    assert pairs.image_index.tolist() == [2, 0, 2, 0, 1, 1, 3, 3]
    dialogues = [DialogueItem([9], [True], p.pixels, s) for p, s in rows]
    talks = DialogueCollator(0, 9, lambda grid: [9])(dialogues)
    for batch in (pairs, talks):
        for name in ("pixel_values", "image_features", "image_lengths", "image_keys"):
            assert torch.equal(batch[name], getattr(images, name))
    assert torch.equal(talks.image_index, images.image_index)
