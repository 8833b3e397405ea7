"""How the reward service does under load: requests a second, latency, memory, and whether its scores are those of `score`.

    python -m benchmarks.reward_service --reward_model runs/tiny/fact_reward_model --answers ANSWERS.jsonl \\
        --image_folder runs/tiny/world/images --captions runs/tiny/world/image_to_caption.json

Starts the service on a port of this machine, asks it from several processes at once, one row a request, and ends clients
half-way to see that what others asked is not lost. With `--batch_size 1` service and program score each row alone, and no
bit may differ. Left out: a network between them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from llava_rlhf.reward_service.client import RewardClient
from llava_rlhf.runs.run_folder import read_json_lines

EVERY = 250  # requests between two looks at the memory


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("reward_model", "answers", "image_folder", "captions"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--restarts", type=int, default=4, help="clients that are killed and started anew")
    parser.add_argument("--batch_size", type=int, default=32, help="rows of a forward, here and there")
    given = parser.parse_args()
    rows = read_json_lines(Path(given.answers))
    rows = [{**row, "prompt_row": row.get("prompt_row", place)} for place, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        wanted = scores_of_the_program(given, rows, Path(folder))
        service, url = started(given)
        try:
            RewardClient(url, patience=120).describe()
            print(json.dumps(measured(given, rows, wanted, url, psutil.Process(service.pid)), indent=1))
        finally:
            service.terminate()
            service.wait(60)


def scores_of_the_program(given: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> np.ndarray:
    """What `llava_rlhf.score` says of the rows, float64[N]."""
    answers, scores = folder / "answers.jsonl", folder / "scores.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--reward_model_name_or_path", given.reward_model, "--dataset_path", str(answers)]
    words += ["--image_folder", given.image_folder, "--image_to_caption_file", given.captions]
    words += ["--output_file", str(scores), "--use_cpu", "True", "--batch_size", str(given.batch_size)]
    subprocess.run([sys.executable, "-m", "llava_rlhf.score", *words], check=True, stdout=subprocess.DEVNULL)
    return np.array([line["score"] for line in read_json_lines(scores)])


def started(given: argparse.Namespace) -> tuple[subprocess.Popen, str]:
    """The service, and its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "PYTHON": sys.executable,
        "REWARD_MODEL": given.reward_model,
        "IMAGE_FOLDER": given.image_folder,
        "CAPTIONS": given.captions,
        "PORT": str(port),
        "BATCH_SIZE": str(given.batch_size),
        "BF16": "False",
    }
    service = subprocess.Popen(
        ["bash", "scripts/serve_reward.sh", "--use_cpu", "True"], env={**os.environ, **variables}
    )
    return service, f"http://127.0.0.1:{port}"


def measured(
    given: argparse.Namespace,
    rows: list[dict[str, Any]],
    wanted: np.ndarray,
    url: str,
    service: psutil.Process,
) -> dict[str, Any]:
    """Ask everything; figures of it."""
    ask(url, rows, range(min(512, given.requests)), None)  # what is loaded at the first use is no leak
    before, begun = service.memory_info().rss, health(url)
    began = time.perf_counter()
    got, memory, killed = collected(given, rows, url, service)
    took = time.perf_counter() - began
    scores = np.array([got[number][0] for number in range(given.requests)])
    seconds = np.array([value[1] for value in got.values()])
    places = np.arange(given.requests) % len(rows)
    ended = health(url)
    rows_scored, forwards = (ended[name] - begun[name] for name in ("rows_scored", "forwards"))
    return {
        "requests": given.requests,
        "answered": len(got),
        "clients": given.clients,
        "clients_restarted": killed,
        "seconds": round(took, 1),
        "requests_a_second": round(given.requests / took, 1),
        "latency_ms": {str(q): round(1000 * float(np.quantile(seconds, q / 100)), 1) for q in (50, 95, 99)},
        "rows_a_forward": round(rows_scored / forwards, 1),
        "equal_bit_for_bit": int((scores == wanted[places]).sum()),
        "largest_difference": float(np.abs(scores - wanted[places]).max()),
        "scores_from_to": [float(wanted.min()), float(wanted.max())],
        "rss_mib": {
            "before": round(before / 2**20, 1),
            "during": [round(value / 2**20, 1) for value in memory],
            "after": round(service.memory_info().rss / 2**20, 1),
            "slope_of_a_thousand_requests_from_the_thousandth_on": slope(memory),
        },
        "torch_threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


def slope(memory: list[int]) -> float | None:
    """MiB that a thousand requests add from the thousandth on, by a straight line; `memory` in bytes at every EVERY-th."""
    first = 1000 // EVERY - 1
    rest = np.array(memory[first:]) / 2**20
    if len(rest) < 2:
        return None
    return round(float(np.polyfit(np.arange(len(rest)) * EVERY / 1000, rest, 1)[0]), 3)


def health(url: str) -> dict[str, Any]:
    """What the service has done since it began."""
    with urllib.request.urlopen(f"{url}/health") as reply:
        return json.load(reply)


def collected(
    given: argparse.Namespace, rows: list[dict[str, Any]], url: str, service: psutil.Process
) -> tuple[dict[int, tuple[float, float]], list[int], int]:
    """Number of a request → score and seconds; memory of the service in bytes on the way; how many clients were killed."""
    parts = [range(client, given.requests, given.clients) for client in range(given.clients)]
    clients = {}
    for place, part in enumerate(parts):
        clients |= [new_client(url, rows, part, place)]
    got: dict[int, tuple[float, float]] = {}
    memory: list[int] = []
    killed = 0
    with tqdm(total=given.requests, desc="asking", unit="request", disable=None) as bar:
        while clients:
            ready = wait(list(clients), timeout=60)
            if not ready:
                raise SystemExit("error: no answer for a minute")
            for pipe in ready:
                reply = pipe.recv()
                if reply is None:
                    clients.pop(pipe)[0].join()
                    continue
                got[reply[0]] = reply[1:]
                bar.update(1)
                if len(got) % EVERY == 0:
                    memory.append(service.memory_info().rss)
            if killed < given.restarts and len(got) > (killed + 1) * given.requests // (given.restarts + 1):
                pipe, (process, place) = next(item for item in clients.items() if item[1][1] == killed)
                process.kill()
                process.join()
                del clients[pipe]
                clients |= [new_client(url, rows, [n for n in parts[place] if n not in got], place)]
                killed += 1
    return got, memory, killed


def new_client(url: str, rows: list[dict[str, Any]], numbers: Any, place: int) -> tuple[Any, tuple[Any, int]]:
    """A client at work: where its replies are read, its process, and which of the clients it is."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)  # one each: a client that is killed leaves no lock behind
    process = context.Process(target=ask, args=(url, rows, numbers, theirs))
    process.start()
    theirs.close()
    return ours, (process, place)


def ask(url: str, rows: list[dict[str, Any]], numbers: Any, replies: Any) -> None:
    """Ask for rows one after the other; sends number, score and seconds of each, at the end None."""
    client = RewardClient(url)
    for number in numbers:
        began = time.perf_counter()
        (score,) = client.score([rows[number % len(rows)]])
        if replies is not None:
            replies.send((number, score, time.perf_counter() - began))
    if replies is not None:
        replies.send(None)


if __name__ == "__main__":
    main()
