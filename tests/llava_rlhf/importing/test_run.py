"""An import as a whole: whole or not at all, interrupted and continued, bad rows named or listed, many kinds of files."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_utils.problems import DataError
from data_utils.schema import read_preferences
from llava_rlhf.importing import part_folder
from llava_rlhf.importing import run as run_module
from tests.llava_rlhf.importing.cases import png, write_pictures
from tests.llava_rlhf.importing.test_formats import run
from tests.support.hub_fetching import hub  # noqa: F401
from tests.support.tiny_data import command_line

ROOT = Path(__file__).resolve().parents[3]


def pair(number: int, **fields: Any) -> dict[str, Any]:
    return {"prompt": f"What {number}?", "chosen": f"good {number}", "rejected": f"bad {number}", **fields}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def chosen(output: Path) -> list[str]:
    records, problems = read_preferences(output / "preferences.jsonl")
    assert not problems
    return [record.outputs[record.preference - 1] for record in records]


def listed(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]


BAD = [pair(0), pair(1, chosen=" "), pair(2), "{no json", 3, pair(5, chosen=None), pair(6)]


def test_all_bad_rows_are_named_and_nothing_is_written(tmp_path):
    source, output = write_lines(tmp_path / "rows.jsonl", BAD), tmp_path / "out"
    with pytest.raises(DataError) as error:
        run(source=source, output_dir=output)
    assert [(one.row, one.field) for one in error.value.problems] == [
        (1, "chosen"),
        (3, "line 4"),
        (4, "row"),
        (5, "chosen"),
    ]
    assert not output.exists()


def test_bad_rows_are_listed_where_they_are_skipped(tmp_path, capsys):
    source, output = write_lines(tmp_path / "rows.jsonl", BAD), tmp_path / "out"
    with pytest.raises(DataError):
        run(source=source, output_dir=output)
    run(
        source=source, output_dir=output, skip_invalid=True
    )  # goes on behind the rows before the first bad one
    assert chosen(output) == ["good 0", "good 2", "good 6"]
    assert [(line["why"], line["row"], line["field"]) for line in listed(output)] == [
        ("skipped", 1, "chosen"),
        ("skipped", 3, "line 4"),
        ("skipped", 4, "row"),
        ("skipped", 5, "chosen"),
    ]
    assert all(line["file"] == str(source) and line["remedy"] for line in listed(output))
    shown = capsys.readouterr().out
    assert "going on at row 1 of" in shown and "4 rows that can't be converted" in shown
    rows = json.loads((output / "import.json").read_text())["rows"]
    assert rows == {"preferences.jsonl": 3, "read": 7, "skipped": 4}


def test_ties_are_counted_and_listed(tmp_path, capsys):
    rows = [pair(0, is_tie=False), pair(1, is_tie=True), pair(2, is_tie=True)]
    output = tmp_path / "out"
    run(source=write_lines(tmp_path / "dpo_pairs.jsonl", rows), output_dir=output)
    assert chosen(output) == ["good 0"] and [line["row"] for line in listed(output)] == [1, 2]
    assert "2 ties" in capsys.readouterr().out


def test_an_import_of_which_nothing_is_left_is_refused(tmp_path):
    source = write_lines(tmp_path / "dpo_pairs.jsonl", [pair(1, is_tie=True)])
    with pytest.raises(DataError, match="no row is left that becomes one of ours"):
        run(source=source, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_so_many_problems_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "MAX_PROBLEMS", 5)
    source = write_lines(tmp_path / "rows.jsonl", [pair(0, chosen="")] * 100)
    with pytest.raises(DataError, match=r"^5 problems"):
        run(source=source, output_dir=tmp_path / "out")


@pytest.mark.parametrize("stop", [0, 1, 7, 19, 20, 26])
def test_an_interrupted_import_goes_on(stop, tmp_path, monkeypatch):
    """In the first file, at its end, in the second; what a kill leaves behind the last place is cut off."""
    monkeypatch.setattr(part_folder, "_SAVED_EVERY", 3)
    sources = [write_lines(tmp_path / "a.jsonl", [pair(number) for number in range(20)])]
    sources += [tmp_path / "b.json"]
    sources[1].write_text(json.dumps([pair(number) for number in range(20, 28)]))
    output, convert, seen = tmp_path / "out", run_module._records, []

    def killed(prepared, pictures, path, number, row):
        seen.append(row)
        if len(seen) == stop + 1:
            raise KeyboardInterrupt
        return convert(prepared, pictures, path, number, row)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_records", killed)
        patch.setattr(part_folder.PartFolder, "__exit__", lambda *_: None)  # as a process that is gone
        with pytest.raises(KeyboardInterrupt):
            run(source=sources, output_dir=output)
    assert not output.exists()
    part = part_folder.part_path(output)
    with (part / "preferences.jsonl").open("ab") as file:
        file.write(b'{"half a li')
    seen.clear()
    monkeypatch.setattr(run_module, "_records", lambda *given: (seen.append(given), convert(*given))[1])
    run(source=sources, output_dir=output)
    assert chosen(output) == [f"good {number}" for number in range(28)]
    assert 28 - stop <= len(seen) <= 28 - stop + 3  # at most the rows since the last place once more
    assert not part.exists() and not (output / "place.json").exists()


@pytest.mark.parametrize("change", ["file", "flag", "no place"])
def test_an_import_with_other_settings_does_not_go_on(change, tmp_path):
    source, output = write_lines(tmp_path / "rows.jsonl", BAD), tmp_path / "out"
    with pytest.raises(DataError):
        run(source=source, output_dir=output)
    part = part_folder.part_path(output)
    flags, words = {}, "is of an import with other settings or files"
    if change == "file":
        write_lines(source, [pair(0)])
    elif change == "flag":
        flags["system_messages"] = "drop"
    else:
        (part / "place.json").write_text("{")
        words = "is in the way and holds no import that could go on: remove it"
    with pytest.raises(ValueError, match=words):
        run(source=source, output_dir=output, **flags)


def test_a_process_that_is_killed_loses_nothing(tmp_path):
    """SIGKILL in the middle, then the same command again: every row once, in order."""
    count = 30_000
    source, output = write_lines(tmp_path / "rows.jsonl", [pair(n) for n in range(count)]), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "llava_rlhf.make_dataset",
        "import",
        *command_line(source=source, output_dir=output),
    ]
    part = part_folder.part_path(output) / "preferences.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if part.exists() and part.stat().st_size > 10**6:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL and not output.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on at row" in done.stdout
    assert chosen(output) == [f"good {number}" for number in range(count)]


def test_bad_rows_end_the_program_with_one_message(tmp_path):
    source = write_lines(tmp_path / "rows.jsonl", BAD)
    flags = command_line(source=source, output_dir=tmp_path / "out")
    command = [sys.executable, "-m", "llava_rlhf.make_dataset", "import", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "error: 4 problems in the data:" in done.stderr and "rows.jsonl, row 1, field 'chosen'" in done.stderr
    )


def test_a_file_that_breaks_off_is_named_and_what_was_read_stays(tmp_path):
    source, output = tmp_path / "rows.json", tmp_path / "out"
    source.write_text(json.dumps([pair(number) for number in range(3)])[:-20])
    with pytest.raises(DataError, match=r"rows\.json, field 'file'.*is no JSON .*at value 2 of a list"):
        run(source=source, output_dir=output, skip_invalid=True)  # of no use as a whole
    assert not output.exists() and part_folder.part_path(output).exists()


def test_folders_gzip_and_tables(tmp_path):
    """A folder of files in their order, one of them a table with pictures; nulls of a table are absent fields."""
    folder, output = tmp_path / "rows", tmp_path / "out"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(pair(0)).encode()))
    rows = [pair(1, images=[{"bytes": png(4), "path": None}]), pair(2, images=None), pair(3, images=[])]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "b.parquet", row_group_size=2)
    (folder / "README.md").write_text("x")
    run(source=folder, output_dir=output)
    records, _ = read_preferences(output / "preferences.jsonl")
    assert chosen(output) == [f"good {number}" for number in range(4)]
    assert [len(record.images) for record in records] == [0, 1, 0, 0]
    assert (output / "images" / records[1].images[0]).read_bytes() == png(4)


@pytest.mark.parametrize("start", range(6))
def test_a_table_is_read_from_any_row(start, tmp_path):
    from llava_rlhf.importing.sources import source_rows

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([pair(n) for n in range(5)]), path, row_group_size=2
    )
    assert list(source_rows(path, "trl", start)) == [(n, pair(n)) for n in range(start, 5)]


REFUSED = {
    "no such source": ({"source": "none.jsonl"}, "--source none.jsonl: no such file or folder"),
    "empty folder": ({"source": "."}, "the folder has no file that ends with .json"),
    "unknown format": ({"format": "dpo"}, "--format dpo: must be one of trl, rlaif_v"),
    "unknown system": ({"system_messages": "keep"}, "--system_messages keep: must be one of refuse, drop"),
    "no such pictures": ({"image_folder": "none"}, "--image_folder none: no such folder or archive"),
    "nothing to copy": ({"copy_images": True}, "--copy_images True: needs --image_folder"),
    "output there": ({"output_dir": "."}, "exists already"),
    "no format": ({"source": "other.jsonl"}, "row 0: no format has the fields 'x'"),
    "no rows": ({"source": "empty.json"}, "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_flags_are_checked(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for file, text in (("rows", json.dumps(pair(0))), ("other", '{"x": 1}')):
        Path(f"../{file}.jsonl").write_text(text)
    Path("../empty.json").write_text("[]")
    changes, words = REFUSED[name]
    changes = {
        key: f"../{value}" if "l" in str(value)[-2:] or ".json" in str(value) else value
        for key, value in changes.items()
    }
    with pytest.raises(ValueError) as error:
        run(**{"source": "../rows.jsonl", "output_dir": "out", **changes})
    assert words.replace("none.jsonl", "../none.jsonl") in str(error.value)


def test_a_data_set_of_the_hub(hub, tmp_path):  # noqa: F811
    """Every shard of its only table, pictures and all."""
    folder = write_pictures(tmp_path / "pictures")
    shards = {}
    for number in range(2):
        row = pair(number, images=[{"bytes": (folder / "a.png").read_bytes(), "path": "x.png"}])
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        shards[f"data/train-0000{number}-of-00002.parquet"] = path.read_bytes()
    hub.add("me/rows", shards, "dataset")
    command = [sys.executable, "-m", "llava_rlhf.make_dataset", "import"]
    done = subprocess.run(
        [*command, *command_line(source="me/rows", output_dir=tmp_path / "out")],
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert chosen(tmp_path / "out") == ["good 0", "good 1"]
