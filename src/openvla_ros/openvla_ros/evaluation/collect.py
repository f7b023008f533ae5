"""`openvla-collect`: demonstrations in the simulator, recorded through the real topics by the real recorder.

Each instance is a whole stack (simulator, bridge, recorder) in a ROS domain of its own. With `--role dagger`
the policy acts and the expert says, for every frame, what it would have done (Ross et al., 2011). What was
recorded is listed in DIR/episodes.jsonl; seeds found there are not recorded again.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_msgs.srv import StopEpisode

from openvla_evaluation.report import outcomes
from openvla_evaluation.report.outcomes import Episode
from openvla_evaluation.suites import cubes
from openvla_ros.bringup.process_table import ProcessSpec
from openvla_ros.bringup.supervisor import stop_on_signals
from openvla_ros.evaluation.progress import ProgressReport
from openvla_ros.evaluation.session import Limits, Session
from openvla_ros.evaluation.stack import START_LIMIT, Stack
from openvla_ros.paths import resolve, share_folder

INDEX = "episodes.jsonl"
RESTARTS = 3  # a stack that fails is replaced this often in one run, then the run ends with the reason
CAMERA_HELP = "regular pictures a second of simulated time (1); one for every action is taken besides"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="openvla-collect", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = made.add_argument
    add("--episodes", type=int, required=True, metavar="N", help="how many, on the seeds from --seed on")
    add("--seed", type=int, default=0, metavar="S", help=f"first seed (0); below {cubes.EVALUATION_SEED}")
    add("--output", type=Path, required=True, metavar="DIR", help="bags and episodes.jsonl go here")
    add("--role", choices=("expert", "dagger"), default="expert", help="who acts (expert)")
    add(
        "--noise",
        type=float,
        metavar="M",
        help="noise on the acting expert's translations, std of an axis [m]",
    )
    add("--noise-rotation", type=float, metavar="RAD", help="noise on its yaw, std [rad]")
    add("--noise-probability", type=float, metavar="P", help="share of its actions that get noise")
    add("--wander", type=int, metavar="N", help="up to N random motions at the start of an episode")
    add("--label-all", action="store_true", help="the expert labels every frame for every cube, not only the target")
    add("--camera-rate", type=float, default=1.0, metavar="HZ", help=CAMERA_HELP)
    add("--instances", type=int, default=1, metavar="K", help="independent stacks (1)")
    add(
        "--real-time-factor",
        type=float,
        default=4.0,
        metavar="X",
        help="simulated seconds a second, when the machine keeps up (4)",
    )
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="policy that acts in --role dagger; default: the policy's YAML",
    )
    add("--unnorm-key", metavar="NAME", help="whose statistics, where its checkpoint has those of several datasets")
    add("--max-steps", type=int, default=60, metavar="N", help="actions after which an episode ends (60)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when every seed is recorded, 130 after Ctrl-C, 1 with one clear line otherwise."""
    options = parser().parse_args(arguments)
    stop = stop_on_signals()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        status = Collection(options, stop).run()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"openvla-collect: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


@dataclass(frozen=True)
class Recorded:
    """What a worker hands to the main thread: an episode, or the failure of its stack."""

    instance: int
    entry: dict[str, Any] | None
    failure: str = ""


class Collection:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, stop: threading.Event) -> None:
        self.options, self.stop = options, stop
        self.output: Path = options.output.resolve()
        self.dagger = options.role == "dagger"
        if options.episodes < 1 or options.instances < 1:
            raise ValueError(f"--episodes {options.episodes} and --instances {options.instances} must be 1 or more")
        seeds = range(options.seed, options.seed + options.episodes)
        if seeds[0] not in cubes.TRAINING_SEEDS or seeds[-1] not in cubes.TRAINING_SEEDS:
            raise ValueError(
                f"seeds {seeds[0]} to {seeds[-1]} are not all below {cubes.EVALUATION_SEED}; the others are "
                "kept for evaluation"
            )
        for option in ("checkpoint", "unnorm_key"):
            if getattr(options, option) and not self.dagger:
                flag = option.replace("_", "-")
                raise ValueError(f"--{flag} is for --role dagger; in --role expert no policy runs")
        if options.checkpoint and not resolve(options.checkpoint).is_dir():
            raise ValueError(f"--checkpoint {options.checkpoint}: there is no such folder")
        self.output.mkdir(parents=True, exist_ok=True)
        done = recorded_seeds(self.output / INDEX, options.role)
        self.total = len(seeds)
        self.seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        missing = [seed for seed in seeds if seed not in done]
        self.already = self.total - len(missing)
        for seed in missing:
            self.seeds.put(seed)
        self.results: queue.SimpleQueue[Recorded] = queue.SimpleQueue()
        self.limits = Limits(max_steps=options.max_steps, stop_at_any=not self.dagger)

    def run(self) -> int:
        """Record what is missing; the exit status."""
        missing = self.total - self.already
        if self.already:
            print(f"{self.already} of {self.total} seeds are recorded in {self.output} already")
        started, kept, succeeded, restarts = time.monotonic(), 0, 0, 0
        interrupted = False
        with ExitStack() as closing, (self.output / INDEX).open("a") as index:
            stacks: dict[int, Stack] = {}
            workers: list[threading.Thread] = []

            def launch(instance: int) -> None:
                stacks[instance] = self._stack(instance)
                session = stacks[instance].start()
                worker = threading.Thread(target=self._work, args=(instance, session), daemon=True)
                worker.start()
                workers.append(worker)

            def end() -> None:
                self.stop.set()
                for worker in workers:
                    worker.join(40.0)
                for stack in stacks.values():
                    stack.stop()

            closing.callback(end)
            progress = closing.enter_context(ProgressReport(self.total, self.already, self.output))
            try:
                for instance in range(min(self.options.instances, missing)):
                    launch(instance)
                while kept < missing:
                    try:
                        result = self.results.get(timeout=0.5)
                    except queue.Empty:
                        progress.update(kept, succeeded)
                        if self.stop.is_set() and not any(worker.is_alive() for worker in workers):
                            interrupted = True
                            break
                        continue
                    if result.entry is None:
                        restarts += 1
                        stacks[result.instance].stop()
                        if restarts > RESTARTS:
                            raise RuntimeError(
                                f"a stack failed for the {restarts}th time in this run: {result.failure}"
                            )
                        progress.say(f"stack {result.instance} failed and is replaced: {result.failure}")
                        launch(result.instance)
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
            f"{self.already + kept} of {self.total} are in {self.output}"
        )
        return 130 if interrupted else 0

    def _stack(self, instance: int) -> Stack:
        options = self.options
        sim: dict[str, object] = {
            "expert.role": "label" if self.dagger else "act",
            "expert.max_steps": options.max_steps,
            "real_time_factor": options.real_time_factor,
            "camera.rate": options.camera_rate,
            "expert.label_all": options.label_all,
            # Faster than real time, set-points reach the simulator thinned out: a gap is no fault of the bridge here.
            "max_target_jump": 1.0,
            "max_target_turn": 3.2,
        }
        noise = {
            "expert.noise.translation": options.noise,
            "expert.noise.rotation": options.noise_rotation,
            "expert.noise.probability": options.noise_probability,
            "expert.wander": options.wander,
        }
        sim.update({name: value for name, value in noise.items() if value is not None})
        overrides: dict[str, dict[str, object]] = {"sim_node": sim}
        policy: dict[str, object] = {}
        if options.checkpoint:
            policy["checkpoint"] = str(resolve(options.checkpoint).resolve())
        if options.unnorm_key:
            policy["unnorm_key"] = options.unnorm_key
        if policy:
            overrides["policy_node"] = policy
        folder = self.output / f"bags-{instance}"
        recorder = ProcessSpec(
            "recorder_node",
            "recorder_node",
            (share_folder() / "config" / "recording" / "sim.yaml",),
            {"output": str(folder), "use_sim_time": True},
        )
        return Stack(
            self.output / "logs" / f"stack-{instance}",
            overrides,
            policy=self.dagger,
            extra=(recorder,),
            frames=False,
            stop=self.stop,
        )

    # ---- a worker thread for each stack --------------------------------------------------------------------

    def _work(self, instance: int, session: Session) -> None:
        seed: int | None = None
        try:
            session.wait_ready(START_LIMIT)
            while not self.stop.is_set():
                try:
                    seed = self.seeds.get_nowait()
                except queue.Empty:
                    return
                entry = self._record(session, seed)
                if entry is None:
                    return
                self.results.put(Recorded(instance, entry))
                seed = None
        except KeyboardInterrupt:  # how a session says that `stop` was set
            pass
        except Exception as error:
            if seed is not None:
                self.seeds.put(seed)
            self.results.put(Recorded(instance, None, str(error)))

    def _record(self, session: Session, seed: int) -> dict[str, Any] | None:
        """Record one seed; None when interrupted. Raises when the stack is at fault."""
        target, instruction = cubes.target_for(seed), cubes.instruction_of_seed(seed)
        note = f"openvla-collect role={self.options.role} seed={seed}"
        # With a target the acting expert begins at once: first the scene without one, then the recording.
        session.reset(seed)
        if not self.dagger:
            session.announce(instruction)
        started = session.start_recording(instruction, note)
        try:
            session.reset(seed, target)
            episode = session.run(seed, seed, instruction, target, self.limits)
        except BaseException:
            session.stop_recording(StopEpisode.Request.DISCARD, 0.0, "the stack failed")
            raise
        outcome = verdict(episode)
        stopped = session.stop_recording(outcome, float(episode.outcome == outcomes.SUCCESS), episode.reason)
        if episode.outcome == outcomes.FAULT:
            raise RuntimeError(f"seed {seed}: {episode.reason}")
        if episode.outcome == outcomes.INTERRUPTED:
            return None
        return {
            "seed": seed,
            "role": self.options.role,
            "instruction": instruction,
            "target": target,
            "outcome": episode.outcome,
            "steps": episode.count,
            "seconds": round(episode.duration, 2),
            "episode_id": started.episode_id,
            "bag": str(Path(stopped.path)) if stopped.path else "",
        }


def verdict(episode: Episode) -> int:
    """What the recorder is told: episodes that missed are kept as such, broken ones are deleted."""
    if episode.outcome in (outcomes.FAULT, outcomes.INTERRUPTED):
        return StopEpisode.Request.DISCARD
    if episode.outcome == outcomes.SUCCESS:
        return StopEpisode.Request.SUCCESS
    return StopEpisode.Request.FAILURE


def recorded_seeds(index: Path, role: str) -> set[int]:
    """Seeds that the index lists for `role`; a last line cut short by a crash is ignored."""
    seeds = set()
    if index.exists():
        for line in index.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("role") == role:
                seeds.add(int(entry["seed"]))
    return seeds


if __name__ == "__main__":
    main()
