"""`openvla-record`: a terminal for a running recorder, with keys that start and end episodes.

Without a terminal it prints a line for each event, and takes no keys.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import rclpy
import yaml
from openvla_msgs.msg import RecorderStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from std_msgs.msg import String

from openvla_policy.command_line import parse
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import RCLError
from openvla_ros.nodes.common.qos import LATCHED
from openvla_ros.nodes.recorder.client import RecorderClient
from openvla_ros.nodes.recorder.status_text import episode_line, session_line, topic_table
from openvla_ros.paths import resolve
from openvla_ros.teleop.terminal_keys import TerminalKeys

COMMAND = "openvla-record"
KEYS = {"enter": "start", "y": "success", "n": "failure", "x": "discard"}
HELP = "enter start   y success   n failure   x discard   i new instruction   q quit"
STATUS_TIMEOUT = 3.0  # [s] without a status after which the recorder counts as gone
REDRAW = 0.12  # [s]
EPISODE_TOPICS = ("episode",)  # published by the recorder itself; they belong in a bag too


@dataclass(frozen=True)
class Options:
    """Options of openvla-record."""

    instruction: str = ""
    """Instruction to publish on the topic `instruction`."""
    topics: bool = False
    """Print the topic list for `ros2 bag record` and exit."""
    config: str = "config/recording/recorder.yaml"
    """YAML file with the recorder's topic list."""


def topics(config: str) -> list[str]:
    """The recorder's topics, as `ros2 bag record` takes them.

    Args:
        config: YAML file of recorder_node.

    Returns:
        Absolute topic names.

    Raises:
        ValueError: The file lists no topics.
    """
    for section in yaml.safe_load(resolve(config).read_text()).values():
        listed = section.get("ros__parameters", {}).get("topics")
        if listed:
            return [name if name.startswith("/") else f"/{name}" for name in (*listed, *EPISODE_TOPICS)]
    raise ValueError(f"{config} lists no topics; add the parameter 'topics' of recorder_node")


class RecorderTerminal:
    """Displays the recorder's status and turns keys into its service calls.

    Args:
        node: The client node.
        instruction: Published at the start, unless ''.
    """

    def __init__(self, node: Node, instruction: str) -> None:
        self._node = node
        self.console = Console(highlight=False)
        self._status: RecorderStatus | None = None
        self._received = 0.0  # when the newest status was received [s, monotonic clock]
        self._answer, self._reason = Text(), ""
        self._draft: str | None = None  # the instruction that is being typed
        self.instruction = instruction
        self._publisher = node.create_publisher(String, "instruction", LATCHED)
        if instruction:
            self._publisher.publish(conversions.text(instruction))
        node.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        node.create_subscription(RecorderStatus, "recorder/status", self._on_status, LATCHED)
        self._client = RecorderClient(node, self._on_answer)
        terminal = sys.stdin.isatty() and self.console.is_terminal
        self._keys = TerminalKeys() if terminal else None
        self._live = Live(console=self.console, auto_refresh=False) if terminal else None

    def run(self) -> None:
        """Serve callbacks and keys until the operator quits."""
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        if self._live:
            self._live.start()
        try:
            drawn = 0.0
            while not self._handle_keys():
                executor.spin_once(timeout_sec=0.05)
                if self._live and time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    self._live.update(self._screen(), refresh=True)
        finally:
            if self._live:
                self._live.update(self._screen(), refresh=True)
                self._live.stop()
            if self._keys:
                self._keys.close()

    def _handle_keys(self) -> bool:
        """Act on the keys typed since the last call; whether one of them quits."""
        for key in self._keys.drain() if self._keys else ():
            if self._draft is not None:
                self._type(key, self._draft)
            elif key == "q":
                return True
            elif key == "i":
                self._draft = ""
            elif key.lower() in KEYS:
                self._client.command(KEYS[key.lower()])
        return False

    def _type(self, key: str, draft: str) -> None:
        if key == "enter":
            if draft.strip():
                self._publisher.publish(conversions.text(draft.strip()))
            self._draft = None
        elif key == "escape":
            self._draft = None
        elif key == "backspace":
            self._draft = draft[:-1]
        elif key.isprintable():
            self._draft = draft + key

    def _on_instruction(self, message: String) -> None:
        self.instruction = message.data

    def _on_status(self, message: RecorderStatus) -> None:
        self._status, self._received = message, time.monotonic()
        if message.reason != self._reason:
            self._reason = message.reason
            if self._live is None and message.reason:
                self.console.print(message.reason, soft_wrap=True)

    def _on_answer(self, success: bool, line: str) -> None:
        self._answer = Text(line, style="green" if success else "red")

    def _screen(self) -> Group:
        status = self._status
        if status is None:
            waiting = "waiting for recorder/status: start recorder_node (ros2 launch openvla_ros record.launch.py)"
            return Group(Text(waiting, style="yellow"), Text("q quit", style="dim"))
        lines: list[RenderableType] = [topic_table(status), Text()]
        if self._draft is not None:
            lines.append(Text(f"new instruction: {self._draft}▏  (enter accepts, escape cancels)", style="bold"))
        else:
            style = "default" if self.instruction else "yellow"
            lines.append(_row("task", Text(self.instruction or "no instruction yet: key i", style=style)))
        lines += [_row("episode", episode_line(status)), _row("session", session_line(status))]
        silence = time.monotonic() - self._received
        if silence > STATUS_TIMEOUT:
            lines.append(Text(f"no recorder/status for {silence:.0f} s", style="bold red"))
        lines += [_row("news", self._answer or Text(status.reason)), Text(HELP, style="dim")]
        return Group(*lines)


def _row(name: str, text: Text) -> Text:
    return Text(f"{name:9}", style="dim").append_text(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; ROS arguments (`--ros-args -r __ns:=/left`) go to rclpy."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--ros-args")] if "--ros-args" in given else given
    description = (
        "A terminal for a running recorder: displays what is recorded and lost; keys start and end episodes. "
        "ROS arguments may follow: --ros-args -r __ns:=/left."
    )
    options = parse(Options, own, prog=COMMAND, description=description)
    if options.topics:
        try:
            print(" ".join(topics(options.config)))
        except (OSError, ValueError) as error:
            sys.exit(f"{COMMAND}: {error}")
        return
    rclpy.init(args=given)
    try:
        RecorderTerminal(rclpy.create_node("openvla_record"), options.instruction).run()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
