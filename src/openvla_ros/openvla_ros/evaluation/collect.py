"""`openvla-collect`: demonstrations in the simulator, recorded through the real topics by the real recorder.

Each instance is a whole stack (simulator, bridge, recorder) in a ROS domain of its own, driven by a worker thread.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openvla_evaluation.report import outcomes
from openvla_evaluation.suites import cubes
from openvla_policy.command_line import parse
from openvla_ros.bringup.process_table import POLICY, RECORDER, SIM, ProcessSpec
from openvla_ros.bringup.supervisor import stop_on_signals
from openvla_ros.evaluation.episode_runner import Limits
from openvla_ros.evaluation.progress import ProgressReport
from openvla_ros.evaluation.recorded_episode import record_episode, recorded_seeds
from openvla_ros.evaluation.stack import START_TIMEOUT, Stack
from openvla_ros.evaluation.stack_client import StackClient
from openvla_ros.paths import resolve, shipped_config

COMMAND = "openvla-collect"
INDEX = "episodes.jsonl"
RESTARTS = 3  # failed stacks that one run replaces; at the next failure it ends with the reason
WORKER_TIMEOUT = 40.0  # [s] for a worker to close its bag


@dataclass(frozen=True)
class Options:
    """Options of openvla-collect."""

    episodes: int
    """Number of episodes, on consecutive seeds from --seed."""
    output: Path
    """Folder for bags and episodes.jsonl."""
    seed: int = 0
    """First seed, below 1000000: the seeds from there on are reserved for evaluation."""
    role: Literal["expert", "dagger"] = "expert"
    """Who acts: `expert`, the scripted expert; `dagger`, a policy, while the expert labels every frame."""
    noise: float | None = None
    """Noise on the acting expert's translations, standard deviation per axis [m]."""
    noise_rotation: float | None = None
    """Noise on the acting expert's yaw, standard deviation [rad]."""
    noise_probability: float | None = None
    """Share of the expert's actions that get noise [0 to 1]."""
    wander: int | None = None
    """Up to this many random motions at the start of an episode."""
    label_all: bool = False
    """The expert labels every frame for every cube, not only for the target."""
    camera_rate: float = 1.0
    """Regular images per second of simulated time [Hz], in addition to one for every action."""
    instances: int = 1
    """Independent stacks that record in parallel."""
    real_time_factor: float = 4.0
    """Limit on the simulation's speed [simulated s/s]; reached when the machine is fast enough."""
    checkpoint: Path | None = None
    """Checkpoint folder of the policy that acts with --role dagger; if omitted, as in the policy's YAML."""
    unnorm_key: str | None = None
    """Dataset whose statistics un-normalise the policy's actions, for a checkpoint with statistics of several."""
    max_steps: int = 60
    """Actions after which an episode ends."""

    @property
    def dagger(self) -> bool:
        """A policy acts and the expert labels."""
        return self.role == "dagger"

    def seeds(self) -> range:
        """The seeds to record.

        Returns:
            Consecutive seeds.

        Raises:
            ValueError: An option is out of range, or does not fit another one.
        """
        if self.episodes < 1 or self.instances < 1:
            raise ValueError(f"--episodes {self.episodes} and --instances {self.instances} must be 1 or more")
        seeds = range(self.seed, self.seed + self.episodes)
        if seeds[0] not in cubes.TRAINING_SEEDS or seeds[-1] not in cubes.TRAINING_SEEDS:
            raise ValueError(
                f"seeds {seeds[0]} to {seeds[-1]} are not all below {cubes.EVALUATION_SEED}; the others are "
                "reserved for evaluation"
            )
        for name, value in (("--checkpoint", self.checkpoint), ("--unnorm-key", self.unnorm_key)):
            if value and not self.dagger:
                raise ValueError(f"{name} is for --role dagger; with --role expert no policy runs")
        if self.checkpoint and not resolve(self.checkpoint).is_dir():
            raise ValueError(f"--checkpoint {self.checkpoint}: there is no such folder")
        return seeds

    def node_parameters(self) -> dict[str, dict[str, object]]:
        """Node name -> parameter -> value."""
        sim: dict[str, object] = {
            "expert.role": "label" if self.dagger else "act",
            "expert.max_steps": self.max_steps,
            "real_time_factor": self.real_time_factor,
            "camera.rate": self.camera_rate,
            "expert.label_all": self.label_all,
            # Faster than real time, the simulator receives only some of the set-points: a jump is no bridge fault.
            "max_target_jump": 1.0,
            "max_target_turn": 3.2,
        }
        optional = {
            "expert.noise.translation": self.noise,
            "expert.noise.rotation": self.noise_rotation,
            "expert.noise.probability": self.noise_probability,
            "expert.wander": self.wander,
        }
        sim |= {name: value for name, value in optional.items() if value is not None}
        policy: dict[str, object] = {}
        if self.checkpoint:
            policy["checkpoint"] = str(resolve(self.checkpoint).resolve())
        if self.unnorm_key:
            policy["unnorm_key"] = self.unnorm_key
        return {SIM: sim, POLICY: policy} if policy else {SIM: sim}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits 0 when every seed is recorded, 1 with the reason in one line, 130 after Ctrl-C."""
    description = (
        "Record demonstrations in the simulator. With --role dagger the policy acts and the expert labels every frame "
        "with its own action (Ross et al., 2011). episodes.jsonl in --output lists what was recorded; seeds in it are "
        "not recorded again."
    )
    options = parse(Options, arguments, prog=COMMAND, description=description)
    stop = stop_on_signals()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        status = Collection(options, stop).run()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


@dataclass(frozen=True)
class Recorded:
    """What a worker passes to the main thread: an episode's entry, or the failure of its stack."""

    instance: int
    entry: dict[str, Any] | None
    failure: str = ""


class Collection:
    """One run of the command.

    Args:
        options: The command's options.
        stop: Ends the run after closing the open bags.
    """

    def __init__(self, options: Options, stop: threading.Event) -> None:
        seeds = options.seeds()
        self._options, self._stop = options, stop
        self._output = options.output.resolve()
        self._output.mkdir(parents=True, exist_ok=True)
        done = recorded_seeds(self._output / INDEX, options.role)
        missing = [seed for seed in seeds if seed not in done]
        self._total, self._already = len(seeds), len(seeds) - len(missing)
        self._seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        for seed in missing:
            self._seeds.put(seed)
        self._results: queue.SimpleQueue[Recorded] = queue.SimpleQueue()
        self._stacks: dict[int, Stack] = {}
        self._workers: list[threading.Thread] = []

    def run(self) -> int:
        """Record what is missing.

        Returns:
            The exit status.

        Raises:
            RuntimeError: More than RESTARTS stacks failed.
        """
        missing = self._total - self._already
        if self._already:
            print(f"{self._already} of {self._total} seeds are already recorded in {self._output}")
        started, kept, succeeded, restarts = time.monotonic(), 0, 0, 0
        interrupted = False
        with ExitStack() as closing, (self._output / INDEX).open("a") as index:
            closing.callback(self._end)
            progress = closing.enter_context(ProgressReport(self._total, self._already, self._output))
            try:
                for instance in range(min(self._options.instances, missing)):
                    self._launch(instance)
                while kept < missing:
                    try:
                        result = self._results.get(timeout=0.5)
                    except queue.Empty:
                        progress.update(kept, succeeded)
                        if self._stop.is_set() and not any(worker.is_alive() for worker in self._workers):
                            interrupted = True
                            break
                        continue
                    if result.entry is None:
                        restarts += 1
                        self._stacks[result.instance].stop()
                        if restarts > RESTARTS:
                            raise RuntimeError(f"{restarts} stacks failed in this run; the last one: {result.failure}")
                        progress.print(f"replacing stack {result.instance}, which failed: {result.failure}")
                        self._launch(result.instance)
                        continue
                    index.write(json.dumps(result.entry) + "\n")
                    index.flush()
                    kept += 1
                    succeeded += result.entry["outcome"] == outcomes.SUCCESS
                    progress.update(kept, succeeded)
            except KeyboardInterrupt:
                interrupted = True
        seconds = time.monotonic() - started
        print(
            f"{'interrupted: ' if interrupted else ''}recorded {kept} episodes, {succeeded} successes, "
            f"in {seconds:.0f} s, {3600 * kept / seconds:.0f} an hour; "
            f"{self._already + kept} of {self._total} are in {self._output}"
        )
        return 130 if interrupted else 0

    def _launch(self, instance: int) -> None:
        """Start a stack, in the main thread, and its worker."""
        recording = shipped_config("recording", "sim.yaml")
        parameters = {"output": str(self._output / f"bags-{instance}"), "use_sim_time": True}
        self._stacks[instance] = Stack(
            self._output / "logs" / f"stack-{instance}",
            self._options.node_parameters(),
            policy=self._options.dagger,
            extra=(ProcessSpec(RECORDER, RECORDER, (recording,), parameters),),
            frames=False,
            stop=self._stop,
        )
        client = self._stacks[instance].start()
        worker = threading.Thread(target=self._work, args=(instance, client), daemon=True)
        worker.start()
        self._workers.append(worker)

    def _end(self) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.join(WORKER_TIMEOUT)
        for stack in self._stacks.values():
            stack.stop()

    def _work(self, instance: int, client: StackClient) -> None:
        """Record seeds on one stack until none is left; the body of a worker thread."""
        limits = Limits(max_steps=self._options.max_steps, stop_at_any=not self._options.dagger)
        seed: int | None = None
        try:
            client.wait_ready(START_TIMEOUT)
            while not self._stop.is_set():
                try:
                    seed = self._seeds.get_nowait()
                except queue.Empty:
                    return
                entry = record_episode(client, seed, self._options.role, limits)
                if entry is None:
                    return
                self._results.put(Recorded(instance, entry))
                seed = None
        except KeyboardInterrupt:  # the client raises it when `stop` is set
            pass
        except Exception as error:
            if seed is not None:
                self._seeds.put(seed)
            self._results.put(Recorded(instance, None, str(error)))


if __name__ == "__main__":
    main()
