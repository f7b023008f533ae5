"""`python -m policy_bench`: latency and memory of all runtimes and precisions, printed and written as JSON and PNG."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from openvla_policy.model.config import OpenVLAConfig, mid, openvla_7b, tiny
from openvla_policy.runtime.precision import Precision

from . import report
from .agreement import agreement
from .episodes import acceptance, record_shipped_policy
from .machine import bandwidth, describe, matrix_rates
from .measure import measure_all
from .models import parameters

MODELS = {"7b": openvla_7b, "mid": mid, "tiny": tiny}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="policy_bench", description=__doc__)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--model", choices=MODELS, help="shape of the random model; default: 7b on a GPU, mid on a CPU")
    p.add_argument("--precisions", nargs="+", choices=get_args(Precision), default=list(get_args(Precision)))
    p.add_argument("--seconds", type=float, default=25.0, help="duration for each precision [s]")
    p.add_argument("--episodes", type=int, default=6, help="recorded to measure acceptance of draft; 0: none")
    p.add_argument("--output", type=Path, default=Path("outputs/bench"), help="folder of the JSON and the picture")
    p.add_argument("--quick", action="store_true", help="one minute: few rounds, few episodes")
    p.add_argument("--show", type=Path, metavar="FILE", help="print and draw an earlier JSON file, without measuring")
    return p


def run(arguments: Sequence[str] | None = None, console: Console | None = None) -> Path:
    """Measure, print and write; return the path of the JSON file."""
    a = parser().parse_args(arguments)
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=150)
    if a.show:
        result = json.loads(a.show.read_text())
        report.show(result, console)
        report.draw(result, a.show.with_suffix(".png"))
        return a.show
    for library in ("torchao", "bitsandbytes", "torch.utils._pytree"):  # warnings about other hardware
        logging.getLogger(library).setLevel(logging.ERROR)
    device = torch.device(a.device)
    seconds, episodes = (min(a.seconds, 4.0), min(a.episodes, 2)) if a.quick else (a.seconds, a.episodes)
    name = a.model or ("7b" if device.type == "cuda" else "mid")
    config: OpenVLAConfig = MODELS[name]()
    started = datetime.now().astimezone()
    machine = describe(device)
    console.print(f"{machine['device']}, {machine['threads']} threads, load {machine['load_at_start']}")
    machine["bandwidth"] = bandwidth(device)
    machine["rates"] = matrix_rates(device)
    rows = measure_all(config, device, a.precisions, seconds, machine, console.print)
    result = {
        "date": started.isoformat(timespec="seconds"),
        "command": " ".join(["policy_bench", *(arguments if arguments is not None else sys.argv[1:])]),
        "machine": machine | {"load_at_end": [round(x, 2) for x in os.getloadavg()]},
        "model": {"name": name, "parameters": parameters(config)},
        "rows": [row.to_dict() for row in rows],
    }
    if episodes:
        console.print(f"recording {episodes} episodes of the shipped policy")
        try:
            seen = record_shipped_policy(device, episodes)
        except (FileNotFoundError, ImportError) as error:  # no checkpoint or no simulator
            result["draft"] = {"problem": str(error)}
        else:
            result["draft"] = acceptance(seen, device)
            result["agreement"] = agreement(seen, a.precisions, device)
    a.output.mkdir(parents=True, exist_ok=True)
    path = a.output / f"policy-{machine['host']}-{device.type}-{started:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    report.show(result, console)
    report.draw(result, path.with_suffix(".png"))
    console.print(f"written: {path} and {path.with_suffix('.png').name}", soft_wrap=True)
    return path


if __name__ == "__main__":
    run()
