"""`openvla-demo`: the closed loop in the simulator, as separate processes over ROS 2, with video and summary.

Also the evaluation of a checkpoint in the simulator: `--episodes 50`, `--paired 20`, `--camera black`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from openvla_evaluation.plan import Suite, Trial, load_suite, trials
from openvla_evaluation.report import outcomes, pictures
from openvla_evaluation.report.outcomes import Episode, Step
from openvla_evaluation.report.pictures import Caption
from openvla_evaluation.report.video import VideoFile
from openvla_evaluation.suites import cubes
from openvla_ros.bringup.image_window import Window
from openvla_ros.bringup.supervisor import ProcessDied, stop_on_signals
from openvla_ros.evaluation.live_view import LiveTable
from openvla_ros.evaluation.session import Limits, Session, SessionError
from openvla_ros.evaluation.stack import START_LIMIT, Stack
from openvla_ros.paths import resolve, share_folder
from openvla_ros.provenance import checkpoint_identity, git_revision, versions

CAMERAS = ("normal", "black", "frozen")
EXPERT_NAME = "scripted expert (knows the true poses: a ceiling, not a policy)"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="openvla-demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = made.add_argument
    add("--episodes", type=int, metavar="N", help="how many (10)")
    add(
        "--instruction",
        metavar="TEXT",
        help="one sentence for every episode, naming one cube; default: each its own",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"first seed; below {cubes.EVALUATION_SEED} it counts from there (0)",
    )
    add("--paired", type=int, metavar="N", help="language test: N start states, one instruction for each cube")
    add("--max-steps", type=int, metavar="N", help="actions after which an episode ends")
    add("--config", type=Path, metavar="FILE", help="evaluation settings (config/evaluation/lift.yaml)")
    add(
        "--policy",
        choices=("checkpoint", "expert"),
        default="checkpoint",
        help="expert: the scripted expert acts instead, as a baseline that needs no checkpoint",
    )
    add("--checkpoint", type=Path, metavar="DIR", help="Hugging Face folder; default: the policy's YAML")
    add("--unnorm-key", metavar="NAME", help="whose statistics, where the checkpoint has those of several datasets")
    add("--server", metavar="URL", help="ask the openvla-serve at ws://HOST:PORT or http://HOST:PORT; no --checkpoint")
    add("--server-token-file", type=Path, metavar="FILE", help="with that server's bearer token")
    add(
        "--camera",
        choices=CAMERAS,
        default="normal",
        help="what the policy gets to see: a control experiment",
    )
    add("--control-mode", choices=("blocking", "streaming"), help="default: the bridge's YAML")
    add("--real-time-factor", type=float, metavar="X", help="speed limit of the simulation (1 = real time)")
    add("--output", type=Path, default=Path("outputs/demo"), metavar="DIR", help="(outputs/demo)")
    add("--show", action="store_true", help="also show the video in a window")
    add("--no-video", action="store_true", help="write no video and no contact sheet")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when the demo ran, whatever the success rate."""
    options = parser().parse_args(arguments)
    stop = stop_on_signals()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        status = Demo(options, stop).run()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"openvla-demo: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("openvla-demo: interrupted before the first episode; every process was ended", file=sys.stderr)
        status = 130
    sys.stdout.flush()
    sys.exit(status)


class Demo:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, stop: threading.Event) -> None:
        self.options, self._stop = options, stop
        self.output: Path = options.output
        self.expert = options.policy == "expert"
        suite = load_suite(options.config or share_folder() / "config" / "evaluation" / "lift.yaml")
        names = ("episodes", "instruction", "seed", "paired", "max_steps")
        self.suite: Suite = suite.with_options({name: getattr(options, name) for name in names})
        self.trials = trials(self.suite)
        self.keep_frames = not options.no_video or options.show
        self.episodes: list[Episode] = []
        self.interrupted = False
        self.checkpoint = ""
        self.control_mode = ""
        if self.expert and (options.checkpoint or options.server):
            raise ValueError("--policy expert uses no checkpoint and no server; leave out --checkpoint and --server")
        if options.checkpoint and options.server:
            raise ValueError("--server has a checkpoint of its own; leave out --checkpoint")
        if options.server_token_file and not options.server:
            raise ValueError("--server-token-file is for --server: name the server, too")
        if options.checkpoint and not resolve(options.checkpoint).is_dir():
            raise ValueError(f"--checkpoint {options.checkpoint}: there is no such folder")

    def run(self) -> int:
        """Start everything, run the episodes, write the results; the exit status."""
        self.output.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        failure = ""
        stack = Stack(
            self.output / "logs", self._overrides(), policy=not self.expert, frames=self.keep_frames, stop=self._stop
        )
        with ExitStack() as closing:
            window = Window("openvla-demo") if self.options.show else None
            if window:
                closing.callback(window.close)
            video = closing.enter_context(VideoFile(self._path("demo.mp4"))) if not self.options.no_video else None
            try:
                with stack as session:
                    self._say(f"starting {len(stack.supervisor.pids)} processes, logs in {self.output}/logs")
                    session.wait_ready(START_LIMIT)
                    self.checkpoint, self.control_mode = session.checkpoint, session.control_mode
                    self._say(f"ready after {time.monotonic() - started:.1f} s: {self.title}")
                    self._episodes(session, video, window)
            except (ProcessDied, SessionError) as error:
                failure = str(error)
            except KeyboardInterrupt:
                if not self.episodes:
                    raise
                self.interrupted = True
        written = self._write(time.monotonic() - started, failure)
        if failure:
            raise RuntimeError(f"{failure}\n  what was done until then is in {self.output}")
        rate = outcomes.success_rate(self.episodes)
        print(f"success {rate}; wrote {', '.join(written)} to {self.output}/")
        return 130 if self.interrupted else 0

    @property
    def title(self) -> str:
        """What acts, for tables and pictures."""
        if self.expert:
            return EXPERT_NAME
        where = f" at {self.options.server}" if self.options.server else ""
        return f"OpenVLA {Path(self.checkpoint).name}{where}" if self.checkpoint else "OpenVLA"

    def _overrides(self) -> dict[str, dict[str, object]]:
        options = self.options
        sim: dict[str, object] = {"expert.role": "act" if self.expert else "off"}
        if options.camera != "normal":
            sim["camera.mode"] = options.camera
        if options.real_time_factor is not None:
            sim["real_time_factor"] = options.real_time_factor
        overrides = {"sim_node": sim}
        if options.control_mode:
            overrides["bridge_node"] = {"control_mode": options.control_mode}
        policy: dict[str, object] = {}
        if options.checkpoint:
            policy["checkpoint"] = str(resolve(options.checkpoint).resolve())
        if options.unnorm_key:
            policy["unnorm_key"] = options.unnorm_key
        if options.server:
            policy |= {"policy.backend": "remote", "server.url": options.server}
            if options.server_token_file:
                policy["server.token_file"] = str(options.server_token_file.expanduser().absolute())
        if policy and not self.expert:
            overrides["policy_node"] = policy
        return overrides

    def _episodes(self, session: Session, video: VideoFile | None, window: Window | None) -> None:
        limits = Limits(max_steps=self.suite.max_steps, stall=self.suite.stall)
        with LiveTable(len(self.trials), self.title) as table:
            for number, trial in enumerate(self.trials, start=1):
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

                session.reset(trial.seed, trial.target if self.expert else "")
                episode = session.run(number, trial.seed, trial.instruction, trial.target, limits, on_step)
                if video:
                    video.add(episode, caption)
                self.episodes.append(episode.thinned(pictures.SHEET_FRAMES))
                table.finish(episode)
                if episode.outcome == outcomes.INTERRUPTED:
                    raise KeyboardInterrupt

    def _caption(self, number: int, trial: Trial) -> Caption:
        title = "scripted expert" if self.expert else self.title
        return Caption(title, number, len(self.trials), trial.seed, trial.instruction, trial.target)

    def _write(self, duration: float, failure: str) -> list[str]:
        """Write what is known, also after an interruption or a failure; returns the names of the files."""
        paired = bool(self.suite.paired)
        written = ["demo.mp4"] if self._path("demo.mp4").exists() else []
        rate = outcomes.success_rate(self.episodes)
        if any(episode.steps for episode in self.episodes):
            written.append("contact_sheet.png")
            sheet = pictures.contact_sheet(self.episodes, f"{self.title.split(' (')[0]}: {rate}")
            sheet.save(self._path("contact_sheet.png"))
        if paired and self.episodes:
            table = outcomes.confusion(self.episodes, cubes.OBJECTS)
            pictures.confusion_picture(table, "Instructed (rows), lifted (columns)").save(self._path("confusion.png"))
            print(table)
            written.append("confusion.png")
        summary = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "policy": {"name": self.title} | checkpoint_identity(self.checkpoint),
            "camera": self.options.camera,
            "control_mode": self.control_mode,
            "settings": {name: getattr(self.suite, name) for name in ("max_steps", "paired", "instruction")}
            | {"first_seed": self.suite.first_seed, "episodes": len(self.trials)},
            "failure": failure or None,
            "wall_time_s": round(duration, 1),
            **outcomes.summarise(self.episodes, cubes.OBJECTS, paired),
            "versions": versions(),
            "git": git_revision(),
        }
        self._path("summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return [*written, "summary.json"]

    def _path(self, name: str) -> Path:
        return self.output / name

    def _say(self, line: str) -> None:
        print(line, flush=True)


if __name__ == "__main__":
    main()
