"""`openvla-demo`: the closed loop in the simulator, as separate processes over ROS 2, with video and summary."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from openvla_evaluation.plan import Suite, Trial, load_suite, trials
from openvla_evaluation.report import outcomes, pictures
from openvla_evaluation.report.outcomes import Episode, Step
from openvla_evaluation.report.pictures import Caption
from openvla_evaluation.report.video import VideoFile
from openvla_evaluation.suites import cubes
from openvla_policy.command_line import parse
from openvla_ros.bringup.image_window import ImageWindow
from openvla_ros.bringup.process_table import BRIDGE, POLICY, SIM
from openvla_ros.bringup.supervisor import ProcessDied, stop_on_signals
from openvla_ros.evaluation.episode_runner import EpisodeRunner, Limits
from openvla_ros.evaluation.live_view import LiveTable
from openvla_ros.evaluation.stack import START_TIMEOUT, Stack
from openvla_ros.evaluation.stack_client import StackClient, StackError
from openvla_ros.paths import resolve, shipped_config
from openvla_ros.provenance import checkpoint_identity, git_revision, versions

COMMAND = "openvla-demo"
EXPERT_NAME = "scripted expert (knows the true poses: a ceiling, not a policy)"
SUITE_OPTIONS = ("episodes", "instruction", "seed", "paired", "max_steps")


@dataclass(frozen=True)
class Options:
    """Options of openvla-demo."""

    episodes: int | None = None
    """Number of episodes; if omitted, as in --config (10)."""
    instruction: str | None = None
    """One instruction for every episode, naming one cube; if omitted, each episode has its own."""
    seed: int | None = None
    """Seed of the first scene (0 if omitted); below 1000000, the first evaluation scene, it counts from there."""
    paired: int | None = None
    """Language test: this many scenes, each with one instruction for every cube."""
    max_steps: int | None = None
    """Actions after which an episode ends; if omitted, as in --config (60)."""
    config: Path | None = None
    """Evaluation settings; if omitted, config/evaluation/lift.yaml."""
    policy: Literal["checkpoint", "expert"] = "checkpoint"
    """`expert`: the scripted expert acts instead of a policy, as a baseline that needs no checkpoint."""
    checkpoint: Path | None = None
    """Checkpoint folder of the policy; if omitted, as in the policy's YAML."""
    unnorm_key: str | None = None
    """Dataset whose statistics un-normalise the actions, for a checkpoint with statistics of several."""
    server: str | None = None
    """URL of a policy server (openvla-serve), ws://HOST:PORT or http://HOST:PORT, instead of --checkpoint."""
    server_token_file: Path | None = None
    """File with the policy server's bearer token."""
    camera: Literal["normal", "black", "frozen"] = "normal"
    """Images that the policy receives; `black` and `frozen` are control experiments."""
    control_mode: Literal["blocking", "streaming"] | None = None
    """Control mode of bridge and policy; if omitted, as in the bridge's YAML."""
    real_time_factor: float | None = None
    """Limit on the simulation's speed [simulated s/s]; 1 is real time; if omitted, as in the simulator's YAML."""
    output: Path = Path("outputs/demo")
    """Folder for video, pictures, summary and logs."""
    show: bool = False
    """Show the video in a window, too."""
    no_video: bool = False
    """Write no video and no contact sheet."""

    def check(self) -> None:
        """Raise ValueError when options do not fit together, or a folder does not exist."""
        if self.policy == "expert" and (self.checkpoint or self.server):
            raise ValueError("--policy expert uses no checkpoint and no server; omit --checkpoint and --server")
        if self.checkpoint and self.server:
            raise ValueError("--checkpoint and --server exclude each other: the server has its own checkpoint")
        if self.server_token_file and not self.server:
            raise ValueError("--server-token-file needs --server")
        if self.checkpoint and not resolve(self.checkpoint).is_dir():
            raise ValueError(f"--checkpoint {self.checkpoint}: there is no such folder")

    def suite(self) -> Suite:
        """The evaluation settings: those of the file, with the options that were given."""
        file = load_suite(self.config or shipped_config("evaluation", "lift.yaml"))
        return file.with_options({name: getattr(self, name) for name in SUITE_OPTIONS})

    def node_parameters(self) -> dict[str, dict[str, object]]:
        """Node name -> parameter -> value, for the options that are parameters of a node."""
        sim: dict[str, object] = {"expert.role": "act" if self.policy == "expert" else "off"}
        if self.camera != "normal":
            sim["camera.mode"] = self.camera
        if self.real_time_factor is not None:
            sim["real_time_factor"] = self.real_time_factor
        policy: dict[str, object] = {}
        if self.checkpoint:
            policy["checkpoint"] = str(resolve(self.checkpoint).resolve())
        if self.unnorm_key:
            policy["unnorm_key"] = self.unnorm_key
        if self.server:
            policy |= {"policy.backend": "remote", "server.url": self.server}
        if self.server_token_file:
            policy["server.token_file"] = str(self.server_token_file.expanduser().absolute())
        nodes = {SIM: sim}
        if self.control_mode:
            nodes[BRIDGE] = {"control_mode": self.control_mode}
        if policy and self.policy != "expert":
            nodes[POLICY] = policy
        return nodes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits 0 when the demo ran, whatever the success rate, 1 on an error, 130 after Ctrl-C."""
    description = (
        "Run the closed loop in the simulator, with video and summary. It is also the evaluation of a checkpoint: "
        "--episodes 50, --paired 20, --camera black."
    )
    options = parse(Options, arguments, prog=COMMAND, description=description)
    stop = stop_on_signals()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        status = Demo(options, stop).run()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print(f"{COMMAND}: interrupted before the first episode; all processes were ended", file=sys.stderr)
        status = 130
    sys.stdout.flush()
    sys.exit(status)


class Demo:
    """One run of the command.

    Args:
        options: The command's options.
        stop: Ends the run after the current action.
    """

    def __init__(self, options: Options, stop: threading.Event) -> None:
        options.check()
        self._options, self._stop = options, stop
        self._expert = options.policy == "expert"
        self._suite = options.suite()
        self._trials = trials(self._suite)
        self._episodes: list[Episode] = []
        self._interrupted = False
        self._checkpoint = ""
        self._control_mode = ""

    def run(self) -> int:
        """Start the stack, run the episodes, write the results.

        Returns:
            The exit status.

        Raises:
            RuntimeError: The stack failed; what was done before is written nevertheless.
        """
        options, output = self._options, self._options.output
        output.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        failure = ""
        stack = Stack(
            output / "logs",
            options.node_parameters(),
            policy=not self._expert,
            frames=options.show or not options.no_video,
            stop=self._stop,
        )

        def report(what: str) -> None:
            print(f"{time.monotonic() - started:5.1f} s  waiting for {what}")

        with ExitStack() as closing:
            window = ImageWindow(COMMAND) if options.show else None
            if window:
                closing.callback(window.close)
            video = closing.enter_context(VideoFile(output / "demo.mp4")) if not options.no_video else None
            try:
                with stack as client:
                    print(f"starting {len(stack.supervisor.pids)} processes, logs in {output}/logs")
                    client.wait_ready(START_TIMEOUT, report)
                    self._checkpoint, self._control_mode = client.checkpoint, client.control_mode
                    print(f"ready after {time.monotonic() - started:.1f} s: {self._title}")
                    self._run_episodes(client, video, window)
            except (ProcessDied, StackError) as error:
                failure = str(error)
            except KeyboardInterrupt:
                if not self._episodes:
                    raise
                self._interrupted = True
        written = self._write(time.monotonic() - started, failure)
        if failure:
            raise RuntimeError(f"{failure}\n  results of the episodes before are in {output}")
        if line := advice(options, self._episodes):
            print(line)
        print(f"success {outcomes.success_rate(self._episodes)}; wrote {', '.join(written)} to {output}/")
        return 130 if self._interrupted else 0

    @property
    def _title(self) -> str:
        """Who acts, for tables and pictures."""
        if self._expert:
            return EXPERT_NAME
        where = f" at {self._options.server}" if self._options.server else ""
        return f"OpenVLA {Path(self._checkpoint).name}{where}" if self._checkpoint else "OpenVLA"

    def _run_episodes(self, client: StackClient, video: VideoFile | None, window: ImageWindow | None) -> None:
        runner = EpisodeRunner(client, Limits(max_steps=self._suite.max_steps, stall=self._suite.stall))
        with LiveTable(len(self._trials), self._title, self._suite.first_seed - self._suite.seed) as table:
            for number, trial in enumerate(self._trials, start=1):
                caption = self._caption(number, trial)

                def on_step(
                    count: int,
                    step: Step,
                    number: int = number,
                    trial: Trial = trial,
                    caption: Caption = caption,
                ) -> None:
                    table.step(number, trial, count, step)
                    if window and step.images:
                        window.show(pictures.draw_frame(step.image, step, count, caption))

                table.start(number, trial)
                client.reset(trial.seed, trial.target if self._expert else "")
                episode = runner.run(number, trial, on_step)
                if video:
                    video.add(episode, caption)
                self._episodes.append(episode.thinned(pictures.SHEET_FRAMES))
                table.finish(episode)
                if episode.outcome == outcomes.INTERRUPTED:
                    raise KeyboardInterrupt

    def _caption(self, number: int, trial: Trial) -> Caption:
        title = "scripted expert" if self._expert else self._title
        return Caption(title, number, len(self._trials), trial.seed, trial.instruction, trial.target)

    def _write(self, duration: float, failure: str) -> list[str]:
        """Write the results, also after an interruption or a failure, and return the names of the files."""
        output = self._options.output
        paired = bool(self._suite.paired)
        written = ["demo.mp4"] if (output / "demo.mp4").exists() else []
        if any(episode.steps for episode in self._episodes):
            title = f"{self._title.split(' (')[0]}: {outcomes.success_rate(self._episodes)}"
            pictures.contact_sheet(self._episodes, title).save(output / "contact_sheet.png")
            written.append("contact_sheet.png")
        if paired and self._episodes:
            table = outcomes.confusion(self._episodes, cubes.OBJECTS)
            print(table)
            picture = pictures.confusion_picture(table, "Instructed (rows), lifted (columns)")
            picture.save(output / "confusion.png")
            written.append("confusion.png")
        summary = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "policy": {"name": self._title} | checkpoint_identity(self._checkpoint),
            "camera": self._options.camera,
            "control_mode": self._control_mode,
            "settings": {name: getattr(self._suite, name) for name in ("max_steps", "paired", "instruction")}
            | {"first_seed": self._suite.first_seed, "episodes": len(self._trials)},
            "failure": failure or None,
            "wall_time_s": round(duration, 1),
            **outcomes.summarise(self._episodes, cubes.OBJECTS, paired),
            "versions": versions(),
            "git": git_revision(),
        }
        (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return [*written, "summary.json"]


def advice(options: Options, episodes: Sequence[Episode]) -> str:
    """Where to read on when a policy lifted nothing; '' when it did, or could not (a black or frozen camera)."""
    count = sum(episode.outcome == outcomes.NOTHING for episode in episodes)
    if not count or options.camera != "normal" or options.policy == "expert":
        return ""
    return (
        f"nothing lifted in {count} of {len(episodes)} episodes: test the stack without the policy with "
        f"`{COMMAND} --policy expert`; read on in docs/how-to/why-does-it-not-move.md"
    )


if __name__ == "__main__":
    main()
