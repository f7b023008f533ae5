"""Records episodes: one rosbag2 bag each, from StartEpisode to StopEpisode.

Topics are subscribed from activation on; between episodes messages are dropped, except the newest of latched topics
(instruction, static transforms), which open every bag. What is known of the episode stands in the bag as two JSON
messages on the topic ``episode``, which this node also publishes: a bag made by ``ros2 bag record`` has them too.
The parameters of every node are one JSON message each on ``episode/parameters``, again when they change.
"""

from __future__ import annotations

import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openvla_msgs.msg import ActionChunk, RecorderStatus
from openvla_msgs.srv import StartEpisode, StopEpisode
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String

from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED
from openvla_ros.nodes.recorder.parameter_snapshot import NodeParameters
from openvla_ros.nodes.recorder.parameters import RecorderParameters
from openvla_ros.nodes.recorder.status import Gauge, Look
from openvla_ros.nodes.recorder.topics import Topic, Topics, bag_qos
from openvla_ros.provenance import git_revision, versions
from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagInfo, BagWriter
from openvla_ros.recording.episode import UNFINISHED, EpisodeError, EpisodeMachine, Outcome, start_event, stop_event
from openvla_ros.recording.episode_markers import Marks
from openvla_ros.recording.message_definitions import Definitions, UnknownType

EPISODE_TOPIC = "episode"
PARAMETERS_TOPIC = "episode/parameters"
WATCH_PERIOD = 0.5  # [s] between two looks for new topics, at the disk and at the writer


class RecorderNode(ManagedNode[RecorderParameters]):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__(RecorderParameters)
        self.machine = EpisodeMachine()
        self.writer: BagWriter | Marks | None = None
        self.topics: Topics | None = None
        self.snapshot: NodeParameters | None = None
        self._gauge, self._news = Gauge(), ""
        self.output: Path | None = None
        self._definitions = Definitions()

    # ---- lifecycle -----------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Prepare the folder and the services."""
        self.output = Path(self.parameters.output).expanduser().absolute()
        self.output.mkdir(parents=True, exist_ok=True)
        self._check_disk()
        left = [path for path in (self.output / IN_PROGRESS).glob("*") if path.is_dir()]
        if left:
            self.get_logger().warning(
                f"{len(left)} unclosed bag(s) of an earlier run; save: openvla-recover {self.output / IN_PROGRESS}/*"
            )
        wanted = [*self.parameters.required_topics, *self.parameters.topics]
        self.topics = Topics(self, wanted, self.parameters.depth, self._definitions, self._receive)
        self.machine.details = {"host": platform.node(), "software": git_revision(), **versions()}
        self._events = self.publisher(String, EPISODE_TOPIC, LATCHED)
        self._status = self.publisher(RecorderStatus, "recorder/status", LATCHED)
        if self.parameters.parameters:
            self.snapshot = NodeParameters(self, self._enter_parameters)
        self.serve(StartEpisode, "start_episode", self._on_start)
        self.serve(StopEpisode, "stop_episode", self._on_stop)
        self.timer(WATCH_PERIOD, self._watch, steady=True)

    def activate(self) -> None:
        """Subscribe to what is there; the timer adds what comes later."""
        self._discover()
        if self.snapshot is not None:
            self.snapshot.look()

    def deactivate(self) -> None:
        """End a running episode cleanly."""
        if self.machine.recording:
            self._finish_early("the recorder was deactivated")

    def release(self) -> None:
        """Drop the subscriptions."""
        if self.topics is not None:
            self.topics.close()
        if self.snapshot is not None:
            self.snapshot.close()
            self.snapshot = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        """Counters, drops and disk for /diagnostics."""
        counters = self.machine.counters
        values: dict[str, object] = {
            "episode": self.machine.current.episode_id if self.machine.current else "",
            "messages": self.writer.messages if self.writer else 0,
            "backlog_bytes": self.writer.backlog if self.writer else 0,
            "success": counters.success,
            "failure": counters.failure,
            "unfinished": counters.unfinished,
            "target": self.parameters.target_episodes,
            "topics": len(self.topics.found) if self.topics else 0,
            "dropped": self._dropped(),
            "gaps": self._gaps(),
            "free_gib": f"{self._free_gib():.1f}" if self.output else "",
        }
        return not self.fault, self.fault or ("recording" if self.machine.recording else "idle"), values

    # ---- messages ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.active:
            self._discover()
            if self.snapshot is not None:
                self.snapshot.look()
            if self.writer is not None:
                self._check_writing()
        self._publish_status()

    def _check_writing(self) -> None:
        assert self.writer is not None
        if self.writer.error is not None:
            self._finish_early(self.writer.error)
            return
        try:
            self._check_disk()
        except ValueError as error:
            self._finish_early(str(error))

    def _discover(self) -> None:
        assert self.topics is not None
        for topic in self.topics.discover():
            if self.writer is not None:
                self._enter(topic)

    def _receive(self, topic: Topic, raw: bytes) -> None:
        if self.writer is None or topic.connection is None:
            return
        topic.newest = raw
        if not self.writer.write(topic.connection, self.now_ns(), raw):
            topic.losses.dropped += 1

    def _enter(self, topic: Topic) -> None:
        """Enter a topic into the open bag, with what it has latched."""
        assert self.writer is not None
        topic.connection = self.writer.add_topic(topic.name, topic.msgtype, [bag_qos(topic.qos)])
        topic.newest = None
        topic.losses.begin()
        for raw in topic.latched or ():
            topic.losses.received += 1
            self._receive(topic, raw)

    def _enter_parameters(self, name: str) -> None:
        """Write what is known of a node's parameters into the open bag."""
        if self.writer is not None and self.snapshot is not None:
            message = serialize_message(String(data=self.snapshot.text(name)))
            self.writer.write(self._parameters_connection, self.now_ns(), message)

    def _emit(self, event: str) -> None:
        """Write an episode event into the bag, and publish it."""
        assert self.writer is not None
        message = String(data=event)
        self.writer.write(self._event_connection, self.now_ns(), serialize_message(message))
        if self.context.ok():
            self._events.publish(message)

    # ---- episodes ------------------------------------------------------------------------------------------

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        try:
            response.episode_id, response.path = self._start(request.instruction, request.operator_note)
            response.success = True
            response.message = f"recording {len(self.topics.found) if self.topics else 0} topics"
        except (EpisodeError, BagError, UnknownType, ValueError) as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"episode not started: {error}")
        return response

    def _start(self, instruction: str, note: str) -> tuple[str, str]:
        if not self.active or self.topics is None or self.output is None:
            raise EpisodeError("the recorder is not active; activate it first")
        self._discover()
        missing = self.topics.missing(self.parameters.required_topics)
        if missing:
            raise EpisodeError(f"no publisher yet on {', '.join(missing)}; start it, or change 'required_topics'")
        self._check_disk()
        if not self.now_ns():
            raise EpisodeError("use_sim_time is set and no /clock has arrived yet; start the simulator")
        episode = self.machine.start(instruction, note, datetime.now(UTC), self._latched_instruction())
        try:
            path = self.output / episode.episode_id
            writes = self.parameters.write
            self.writer = (
                BagWriter(path, self._definitions, compression=self.parameters.compression) if writes else Marks()
            )
            self._event_connection = self._text_topic(EPISODE_TOPIC)
            self._parameters_connection = self._text_topic(PARAMETERS_TOPIC)
            self._emit(start_event(episode))
            for topic in self.topics.found.values():
                self._enter(topic)
            for name in self.snapshot.values if self.snapshot else ():
                self._enter_parameters(name)
        except (BagError, UnknownType):
            self.machine.current = None
            writer = self._detach()
            if writer is not None:
                writer.discard()
            raise
        self._gauge.begin()
        self.fault = ""
        self._tell(f"episode {episode.episode_id} started: {episode.instruction}")
        return episode.episode_id, str(path) if writes else ""

    def _text_topic(self, name: str) -> Any:
        assert self.writer is not None
        return self.writer.add_topic(self.resolve_topic_name(name), "std_msgs/msg/String", [bag_qos(LATCHED)])

    def _tell(self, line: str) -> None:
        """Say it in the log and in the status."""
        self._news = line
        self.get_logger().info(line)
        self._publish_status()

    def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        try:
            outcome = self.machine.check_stop(request.outcome, request.score)
            assert self.topics is not None
            self.topics.take_waiting()  # what was sent before the stop belongs to the episode
            if outcome is Outcome.DISCARD:
                assert self.machine.current is not None
                # Nobody reads it in the bag, which is deleted; one that `ros2 bag record` writes has to know.
                self._emit(stop_event(self.machine.current, outcome.label, 0.0, request.note, {}, {}))
                episode = self.machine.stopped(outcome.label)
                writer = self._detach()
                assert writer is not None
                writer.discard()
                response.message = f"episode {episode.episode_id} discarded"
            else:
                info = self._close(outcome.label, request.score, request.note)
                response.path = str(info.path) if self.parameters.write else ""
                response.messages, response.duration = info.messages, info.duration
                response.message = self._report(info)
            response.success = True
            self._tell(response.message)
        except (EpisodeError, BagError) as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"episode not stopped as asked: {error}")
        return response

    def _close(self, label: str, score: float, note: str) -> BagInfo:
        episode = self.machine.current
        assert episode is not None
        statistics = self._statistics()
        silent = self.snapshot.silent if self.snapshot else ()
        self._emit(stop_event(episode, label, score, note, self._dropped(), statistics, self._gaps(), silent))
        self.machine.stopped(label)
        writer = self._detach()
        assert writer is not None
        shown = {"episode_id": episode.episode_id, "instruction": episode.instruction, "outcome": label}
        revision = episode.details.get("software") or {}
        shown |= {"score": f"{score:g}", "git": str(revision.get("commit", ""))}
        return writer.close(shown | {f"statistics_{key}": value for key, value in statistics.items() if value})

    def _finish_early(self, reason: str) -> None:
        """End the episode though nobody asked for it: what is recorded stays, marked as unfinished."""
        episode = self.machine.current
        assert episode is not None and self.topics is not None
        try:
            if self.context.ok():  # not when the process is ending
                self.topics.take_waiting()
            info = self._close(UNFINISHED, 0.0, reason)
            self.fault = f"episode {episode.episode_id} ended early: {reason}; kept as {info.path}"
        except BagError as error:
            self.fault = f"episode {episode.episode_id} ended early: {error}"
        self._news = self.fault
        if self.context.ok():
            self.get_logger().error(self.fault)
            self._publish_status()
        else:  # the log's own topic is gone
            print(self.fault, file=sys.stderr)

    def _detach(self) -> BagWriter | Marks | None:
        """Take the writer out of the flow of messages."""
        writer, self.writer = self.writer, None
        for topic in self.topics.found.values() if self.topics else ():
            topic.connection = None
        return writer

    # ---- what is known -------------------------------------------------------------------------------------

    def _dropped(self) -> dict[str, int]:
        found = self.topics.found.values() if self.topics else ()
        return {topic.name: topic.losses.dropped for topic in found if topic.losses.dropped}

    def _gaps(self) -> dict[str, int]:
        found = self.topics.found.values() if self.topics else ()
        return {topic.name: topic.losses.gaps for topic in found if topic.losses.gaps}

    def _publish_status(self) -> None:
        if self.topics is None or self.output is None or self.closing or not self.context.ok():
            return
        writer, write = self.writer, self.parameters.write
        state = "inactive" if not self.active else "idle" if writer is None else "recording" if write else "marking"
        look = Look(
            state, self.fault or self._news, self.machine.current, writer.messages if writer else 0,
            writer.size if writer else 0, writer.backlog if writer else 0, self.machine.counters,
            self.parameters.target_episodes, self._free_gib() - self.parameters.min_free_gib,
            self.topics.missing(self.parameters.required_topics),
        )  # fmt: skip
        self._status.publish(self._gauge.message(look, self.topics.found.values(), self.now_ns()))

    def _report(self, info: BagInfo) -> str:
        counters, target = self.machine.counters, self.parameters.target_episodes
        assert self.machine.last is not None
        parts = [
            f"{info.path.name}: {info.messages} messages, {info.duration:.1f} s"
            if self.parameters.write
            else f"{self.machine.last.episode_id}: marked",
            f"{counters.success}{f' of {target}' if target else ''} successes, {counters.failure} failures",
            f"{self._free_gib():.0f} GiB free",
        ]
        dropped = self._dropped()
        if dropped:
            parts.append("DROPPED " + ", ".join(f"{number} of {name}" for name, number in dropped.items()))
        gaps = self._gaps()
        if gaps:
            parts.append("gaps: " + ", ".join(f"{number} in {name}" for name, number in gaps.items()))
        return "; ".join(parts)

    def _latched_instruction(self) -> str:
        topic = self.topics.get("instruction", "std_msgs/msg/String") if self.topics else None
        return str(deserialize_message(topic.latched[-1], String).data) if topic and topic.latched else ""

    def _statistics(self) -> dict[str, str]:
        """Name and hash of the statistics behind the newest chunk."""
        topic = self.topics.get("policy/action_chunk", "openvla_msgs/msg/ActionChunk") if self.topics else None
        if topic is None or topic.newest is None:
            return {}
        chunk = deserialize_message(topic.newest, ActionChunk)
        return {"name": chunk.statistics_name, "hash": chunk.statistics_hash, "source": chunk.source}

    def _free_gib(self) -> float:
        return shutil.disk_usage(str(self.output)).free / 2**30

    def _check_disk(self) -> None:
        free, least = self._free_gib(), self.parameters.min_free_gib
        if free < least:
            raise ValueError(
                f"the disk of {self.output} has {free:.1f} GiB left, 'min_free_gib' is {least:g}; make room"
            )


def main() -> None:
    """Entry point."""
    main_of(RecorderNode)


if __name__ == "__main__":
    main()
