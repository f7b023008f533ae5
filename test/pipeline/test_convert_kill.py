"""Kills of the converter at each of its file operations and at random times lose and change nothing finished."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_factory import random_demo, write_demo

from openvla_training.bags import convert_all as convert_module
from openvla_training.bags.convert_all import convert
from openvla_training.bags.convert_bag import Options
from openvla_training.bags.episodes import find_bags
from openvla_training.rlds.reader import read_episodes
from openvla_training.rlds.writer import open_writer

BAGS, PER_SHARD, RANDOM_KILLS = 9, 2, 8
# Operations that change a file or a folder; ArrayRecord writes in C++, which only the random kills reach.
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove")


def run(bags: Path, output: Path) -> None:
    """Convert with small shards, so that many operations are between two commits."""
    convert_module.open_writer = functools.partial(open_writer, episodes_per_shard=PER_SHARD)
    convert(find_bags([bags]), output, "demo", Options(image_size=None), val_fraction=0.3)


def _child(bags: Path, output: Path, die_at: int) -> None:
    """Convert, and kill this process right before its file operation number ``die_at`` in the output folder."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS or not str(arguments[0]).startswith(str(output)):
            return
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) == 0:
            return
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run(bags, output)
    os._exit(0)


def _kill_many(folder: Path) -> None:
    """Fork and kill conversions, in a process that does not use ArrayRecord itself; prints how many were killed."""

    def forked(output: Path, die_at: int) -> int:
        if (pid := os.fork()) == 0:
            _child(folder / "bags", output, die_at)
        return pid

    number, killed = 0, True
    while killed:
        number += 1
        _, status = os.waitpid(forked(folder / f"at_{number:03d}", number), 0)
        killed = os.WIFSIGNALED(status)
    begin = time.monotonic()
    os.waitpid(forked(folder / "timed", 10**9), 0)
    longest = time.monotonic() - begin
    for index in range(RANDOM_KILLS):
        pid = forked(folder / f"random_{index}", 10**9)
        time.sleep(random.Random(index).uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(number - 1, flush=True)


def contents(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Every episode of a dataset, to the last byte."""
    return {
        one.episode_id: (one.actions.tobytes(), one.states.tobytes(), *(np.asarray(i).tobytes() for i in one.images))
        for one in read_episodes(folder, split="all")
    }


def files(folder: Path) -> dict[str, Any]:
    """All files of a dataset but the manifest's folder names."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.timeout(300)
def test_killed_conversion_resumes_to_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "open_writer", open_writer)  # what run() replaces is put back
    for index in range(BAGS):
        demo = random_demo(np.random.default_rng(index), 3, 12, start=10**18 + index * 10**11)
        write_demo(tmp_path / "bags" / f"bag_{index}", demo)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # with test/helpers
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    operations = int(done.stdout.split()[-1])
    assert operations > 30, "the hook saw too few operations"

    run(tmp_path / "bags", tmp_path / "whole")
    expected, expected_files = contents(tmp_path / "whole"), files(tmp_path / "whole" / "demo" / "1.0.0")
    assert len(expected) == BAGS
    interrupted = sorted(path for path in tmp_path.iterdir() if path.name.startswith(("at_", "random_")))
    found = set()
    for number, output in enumerate(interrupted):
        folder = output / "demo" / "1.0.0"
        there = contents(folder) if (folder / "dataset_info.json").exists() else {}
        assert there.items() <= expected.items(), f"{output.name}: an episode changed"
        if (folder / "manifest.json").exists():
            entered = [
                e for shard in json.loads((folder / "manifest.json").read_text())["shards"] for e in shard["episodes"]
            ]
            assert set(there) <= set(entered)
        found.add(len(there))
        if number % 3 == 0 or output.name.startswith("random_"):  # resuming takes most of this test's time
            run(tmp_path / "bags", output)
            assert files(folder) == expected_files, f"{output.name}: resuming gave another dataset"
    assert len(found) > 3, f"all kills left the same state: {found}"


if __name__ == "__main__":
    _kill_many(Path(sys.argv[1]))
