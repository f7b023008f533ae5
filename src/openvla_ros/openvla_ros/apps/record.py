"""`openvla-record`: a terminal for a running recorder. Shows what is recorded and lost; keys start and end episodes.

Where there is no terminal it prints a line for each thing that happens, and takes no keys.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import rclpy
import yaml
from openvla_msgs.msg import RecorderStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from std_msgs.msg import String

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import RCLError
from openvla_ros.nodes.common.qos import LATCHED
from openvla_ros.nodes.recorder.client import RecorderClient
from openvla_ros.nodes.recorder.status_text import episode_line, session_line, topic_table
from openvla_ros.paths import resolve
from openvla_ros.teleop.terminal_keys import TerminalKeys

COMMANDS = {"enter": "start", "y": "success", "n": "failure", "x": "discard"}
HELP = "enter start   y success   n failure   x discard   i new instruction   q quit"
CONFIG = "config/recording/recorder.yaml"
SILENT = 3.0  # [s] a recorder that says nothing for so long is gone
# What the recorder itself publishes belongs in the bag as well.
MARKS = ("episode",)


def topics(config: str) -> list[str]:
    """The recorder's topics, as `ros2 bag record` takes them."""
    for section in yaml.safe_load(resolve(config).read_text()).values():
        listed = section.get("ros__parameters", {}).get("topics")
        if listed:
            return [name if name.startswith("/") else f"/{name}" for name in (*listed, *MARKS)]
    raise ValueError(f"{config} lists no topics")


class Face:
    """The client node, its keys and what it shows."""

    def __init__(self, node: Node, instruction: str) -> None:
        self._node = node
        self.console = Console(highlight=False)
        self._status: RecorderStatus | None = None
        self._heard, self._news, self._said = 0.0, Text(), ""
        self._typing: str | None = None  # the instruction being typed
        self.instruction = instruction
        self._sentence = node.create_publisher(String, "instruction", LATCHED)
        if instruction:
            self._sentence.publish(conversions.text(instruction))
        node.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        node.create_subscription(RecorderStatus, "recorder/status", self._on_status, LATCHED)
        self._client = RecorderClient(node, self._tell)
        terminal = sys.stdin.isatty() and self.console.is_terminal
        self._keys = TerminalKeys() if terminal else None
        self._live = Live(console=self.console, auto_refresh=False) if terminal else None

    def run(self) -> None:
        """Until the operator quits."""
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        if self._live:
            self._live.start()
        try:
            drawn = 0.0
            while not self._quit():
                executor.spin_once(timeout_sec=0.05)
                if self._live and time.monotonic() - drawn > 0.12:
                    drawn = time.monotonic()
                    self._live.update(self._picture(), refresh=True)
        finally:
            if self._live:
                self._live.update(self._picture(), refresh=True)
                self._live.stop()
            if self._keys:
                self._keys.close()

    def _quit(self) -> bool:
        for key in self._keys.drain() if self._keys else ():
            if self._typing is not None:
                self._type(key)
            elif key == "q":
                return True
            elif key == "i":
                self._typing = ""
            elif key.lower() in COMMANDS:
                self._client.command(COMMANDS[key.lower()])
        return False

    def _type(self, key: str) -> None:
        assert self._typing is not None
        if key == "enter":
            if self._typing.strip():
                self._sentence.publish(conversions.text(self._typing.strip()))
            self._typing = None
        elif key == "escape":
            self._typing = None
        elif key == "backspace":
            self._typing = self._typing[:-1]
        elif key.isprintable():
            self._typing += key

    def _on_instruction(self, message: String) -> None:
        self.instruction = message.data

    def _on_status(self, message: RecorderStatus) -> None:
        self._status, self._heard = message, time.monotonic()
        if message.reason != self._said:
            self._said = message.reason
            if self._live is None and message.reason:
                self.console.print(message.reason, soft_wrap=True)

    def _tell(self, fine: bool, line: str) -> None:
        self._news = Text(line, style="green" if fine else "red")

    def _picture(self) -> Group:
        status = self._status
        if status is None:
            waiting = "waiting for recorder/status: start recorder_node (ros2 launch openvla_ros record.launch.py)"
            return Group(Text(waiting, style="yellow"), Text("q quit", style="dim"))
        parts: list[object] = [topic_table(status), Text()]
        if self._typing is not None:
            parts.append(Text(f"new instruction: {self._typing}▏  (enter takes it, escape does not)", style="bold"))
        else:
            style = "default" if self.instruction else "yellow"
            task = Text(self.instruction or "no instruction yet: key i", style=style)
            parts.append(Text("task     ", style="dim").append_text(task))
        parts.append(Text("episode  ", style="dim").append_text(episode_line(status)))
        parts.append(Text("session  ", style="dim").append_text(session_line(status)))
        if time.monotonic() - self._heard > SILENT:
            parts.append(Text("the recorder is silent", style="bold red"))
        news = self._news if self._news else Text(status.reason)
        parts.append(Text("news     ", style="dim").append_text(news))
        parts.append(Text(HELP, style="dim"))
        return Group(*parts)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ROS arguments (`--ros-args -r __ns:=/left`) are passed on."""
    parser = argparse.ArgumentParser(
        prog="openvla-record", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--instruction", default="", metavar="TEXT", help="sentence to publish on `instruction`")
    parser.add_argument("--topics", action="store_true", help="print the topic list for `ros2 bag record` and end")
    parser.add_argument("--config", default=CONFIG, metavar="YAML", help=f"whose topic list (default {CONFIG})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours = given[: given.index("--ros-args")] if "--ros-args" in given else given
    options = parser.parse_args(ours)
    if options.topics:
        try:
            print(" ".join(topics(options.config)))
        except (OSError, ValueError) as error:
            sys.exit(f"openvla-record: {error}")
        return
    rclpy.init(args=given)
    try:
        Face(rclpy.create_node("openvla_record"), options.instruction).run()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
