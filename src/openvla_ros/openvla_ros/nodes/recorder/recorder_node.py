"""Records episodes: one rosbag2 bag each, from StartEpisode to StopEpisode.

Topics are subscribed from activation on. Between episodes messages are dropped, except the newest of latched topics
(instruction, static transforms), with which every bag begins. Metadata of the episode are two JSON messages on the
topic `episode`, which this node also publishes, so that a bag of `ros2 bag record` contains them too. The parameters of
every node are one JSON message each on `episode/parameters`, and another one when they change.
"""

from __future__ import annotations

import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openvla_msgs.msg import RecorderStatus
from openvla_msgs.srv import StartEpisode, StopEpisode
from rclpy.serialization import serialize_message
from std_msgs.msg import String

from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED
from openvla_ros.nodes.recorder.parameter_snapshot import ParameterSnapshot
from openvla_ros.nodes.recorder.parameters import RecorderParameters
from openvla_ros.nodes.recorder.status import RecorderSnapshot, StatusReporter, summary
from openvla_ros.nodes.recorder.topics import RecordedTopic, TopicSubscriptions, bag_qos
from openvla_ros.provenance import git_revision, versions
from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagInfo, BagWriter
from openvla_ros.recording.episode import UNFINISHED, EpisodeError, EpisodeMachine, Outcome, start_event, stop_event
from openvla_ros.recording.episode_markers import EpisodeMarkers
from openvla_ros.recording.message_definitions import MessageDefinitions, UnknownType

EPISODE_TOPIC = "episode"
PARAMETERS_TOPIC = "episode/parameters"
WATCH_PERIOD = 0.5  # [s] between two checks of the topics, the disk and the writer


class RecorderNode(ManagedNode[RecorderParameters]):
    """The node around an episode, its bag and its subscriptions; see the module's docstring."""

    def __init__(self) -> None:
        super().__init__(RecorderParameters)
        self._machine = EpisodeMachine()
        self._writer: BagWriter | EpisodeMarkers | None = None
        self._topics: TopicSubscriptions | None = None
        self._snapshot: ParameterSnapshot | None = None
        self._reporter, self._news = StatusReporter(), ""
        self._output: Path | None = None
        self._definitions = MessageDefinitions()

    # ---- lifecycle -----------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Prepare the folder, the subscriptions and the services."""
        self._output = Path(self.parameters.output).expanduser().absolute()
        self._output.mkdir(parents=True, exist_ok=True)
        self._check_disk()
        unclosed = [path for path in (self._output / IN_PROGRESS).glob("*") if path.is_dir()]
        if unclosed:
            self.get_logger().warning(
                f"{len(unclosed)} unclosed bag(s) of an earlier run; to recover them: openvla-recover "
                f"{self._output / IN_PROGRESS}/*"
            )
        wanted = [*self.parameters.required_topics, *self.parameters.topics]
        self._topics = TopicSubscriptions(self, wanted, self.parameters.depth, self._definitions, self._receive)
        self._machine.details = {"host": platform.node(), "software": git_revision(), **versions()}
        self._events = self.publisher(String, EPISODE_TOPIC, LATCHED)
        self._status = self.publisher(RecorderStatus, "recorder/status", LATCHED)
        if self.parameters.parameters:
            self._snapshot = ParameterSnapshot(self, self._add_parameters)
        self.serve(StartEpisode, "start_episode", self._on_start)
        self.serve(StopEpisode, "stop_episode", self._on_stop)
        self.timer(WATCH_PERIOD, self._watch, steady=True)

    def activate(self) -> None:
        """Subscribe to the topics present; the timer adds the others when they appear."""
        self._discover()
        if self._snapshot is not None:
            self._snapshot.update()

    def deactivate(self) -> None:
        """End the episode in progress; its bag is complete."""
        if self._machine.recording:
            self._finish_early("the recorder was deactivated")

    def release(self) -> None:
        """Destroy the subscriptions."""
        if self._topics is not None:
            self._topics.close()
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        """Counters, losses and free disk space for /diagnostics."""
        counters = self._machine.counters
        values: dict[str, object] = {
            "episode": self._machine.current.episode_id if self._machine.current else "",
            "messages": self._writer.messages if self._writer else 0,
            "backlog_bytes": self._writer.backlog if self._writer else 0,
            "success": counters.success,
            "failure": counters.failure,
            "unfinished": counters.unfinished,
            "target": self.parameters.target_episodes,
            "topics": len(self._topics.found) if self._topics else 0,
            "dropped": self._topics.dropped if self._topics else {},
            "gaps": self._topics.gaps if self._topics else {},
            "free_gib": f"{self._free_gib():.1f}" if self._output else "",
        }
        return not self.fault, self.fault or ("recording" if self._machine.recording else "idle"), values

    # ---- messages ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.active:
            self._discover()
            if self._snapshot is not None:
                self._snapshot.update()
            if self._writer is not None:
                self._check_writing()
        self._publish_status()

    def _check_writing(self) -> None:
        assert self._writer is not None
        if self._writer.error is not None:
            self._finish_early(self._writer.error)
            return
        try:
            self._check_disk()
        except ValueError as error:
            self._finish_early(str(error))

    def _discover(self) -> None:
        assert self._topics is not None
        for topic in self._topics.discover():
            if self._writer is not None:
                self._add(topic)

    def _receive(self, topic: RecordedTopic, raw: bytes) -> None:
        if self._writer is None or topic.connection is None:
            return
        topic.newest = raw
        if not self._writer.write(topic.connection, self.now_ns(), raw):
            topic.loss.dropped += 1

    def _add(self, topic: RecordedTopic) -> None:
        """Add a topic to the open bag, with its latched messages."""
        assert self._writer is not None
        topic.connection = self._writer.add_topic(topic.name, topic.msgtype, [bag_qos(topic.qos)])
        topic.newest = None
        topic.loss.begin()
        for raw in topic.latched or ():
            topic.loss.received += 1
            self._receive(topic, raw)

    def _add_parameters(self, name: str) -> None:
        """Write the known parameters of a node to the open bag."""
        if self._writer is not None and self._snapshot is not None:
            message = serialize_message(String(data=self._snapshot.text(name)))
            self._writer.write(self._parameters_connection, self.now_ns(), message)

    def _emit(self, event: str) -> None:
        """Write an episode event to the bag, and publish it."""
        assert self._writer is not None
        message = String(data=event)
        self._writer.write(self._event_connection, self.now_ns(), serialize_message(message))
        if self.context.ok():
            self._events.publish(message)

    # ---- episodes ------------------------------------------------------------------------------------------

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        try:
            response.episode_id, response.path = self._start(request.instruction, request.operator_note)
            response.success = True
            response.message = f"recording {len(self._topics.found) if self._topics else 0} topics"
        except (EpisodeError, BagError, UnknownType, ValueError) as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"episode not started: {error}")
        return response

    def _start(self, instruction: str, note: str) -> tuple[str, str]:
        if not self.active or self._topics is None or self._output is None:
            raise EpisodeError("the recorder is not active; activate it first")
        self._discover()
        missing = self._topics.missing(self.parameters.required_topics)
        if missing:
            raise EpisodeError(f"no publisher yet on {', '.join(missing)}; start it, or change 'required_topics'")
        self._check_disk()
        if not self.now_ns():
            raise EpisodeError("use_sim_time is set and no /clock has arrived yet; start the simulator")
        episode = self._machine.start(instruction, note, datetime.now(UTC), self._topics.instruction)
        try:
            path = self._output / episode.episode_id
            if self.parameters.write:
                self._writer = BagWriter(path, self._definitions, compression=self.parameters.compression)
            else:
                self._writer = EpisodeMarkers()
            self._event_connection = self._text_topic(EPISODE_TOPIC)
            self._parameters_connection = self._text_topic(PARAMETERS_TOPIC)
            self._emit(start_event(episode))
            for topic in self._topics.found.values():
                self._add(topic)
            for name in self._snapshot.values if self._snapshot else ():
                self._add_parameters(name)
        except (BagError, UnknownType):
            self._machine.current = None
            writer = self._detach()
            if writer is not None:
                writer.discard()
            raise
        self._reporter.begin()
        self.fault = ""
        self._report(f"episode {episode.episode_id} started: {episode.instruction}")
        return episode.episode_id, str(path) if self.parameters.write else ""

    def _text_topic(self, name: str) -> Any:
        assert self._writer is not None
        return self._writer.add_topic(self.resolve_topic_name(name), "std_msgs/msg/String", [bag_qos(LATCHED)])

    def _report(self, line: str) -> None:
        """Report an event in the log and in the status."""
        self._news = line
        self.get_logger().info(line)
        self._publish_status()

    def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        try:
            outcome = self._machine.check_stop(request.outcome, request.score)
            assert self._topics is not None
            self._topics.drain()  # messages published before the stop belong to the episode
            if outcome is Outcome.DISCARD:
                assert self._machine.current is not None
                # This bag is deleted, but one that `ros2 bag record` writes needs the event.
                self._emit(stop_event(self._machine.current, outcome.label, 0.0, request.note, {}, {}))
                episode = self._machine.stopped(outcome.label)
                writer = self._detach()
                assert writer is not None
                writer.discard()
                response.message = f"episode {episode.episode_id} discarded"
            else:
                info = self._close(outcome.label, request.score, request.note)
                response.path = str(info.path) if self.parameters.write else ""
                response.messages, response.duration = info.messages, info.duration
                response.message = self._summary(info)
            response.success = True
            self._report(response.message)
        except (EpisodeError, BagError) as error:
            response.success, response.message = False, str(error)
            self.get_logger().error(f"episode not stopped as asked: {error}")
        return response

    def _close(self, label: str, score: float, note: str) -> BagInfo:
        episode = self._machine.current
        assert episode is not None and self._topics is not None
        statistics = self._topics.statistics
        silent = self._snapshot.silent if self._snapshot else ()
        self._emit(stop_event(episode, label, score, note, self._topics.dropped, statistics, self._topics.gaps, silent))
        self._machine.stopped(label)
        writer = self._detach()
        assert writer is not None
        revision = episode.details.get("software") or {}
        metadata = {
            "episode_id": episode.episode_id,
            "instruction": episode.instruction,
            "outcome": label,
            "score": f"{score:g}",
            "git": str(revision.get("commit", "")),
        }
        return writer.close(metadata | {f"statistics_{key}": value for key, value in statistics.items() if value})

    def _finish_early(self, reason: str) -> None:
        """End the episode without a request: what is recorded is kept, marked as unfinished."""
        episode = self._machine.current
        assert episode is not None and self._topics is not None
        try:
            if self.context.ok():  # not when the process is ending
                self._topics.drain()
            info = self._close(UNFINISHED, 0.0, reason)
            self.fault = f"episode {episode.episode_id} ended early: {reason}; kept as {info.path}"
        except BagError as error:
            self.fault = f"episode {episode.episode_id} ended early: {error}"
        self._news = self.fault
        if self.context.ok():
            self.get_logger().error(self.fault)
            self._publish_status()
        else:  # /rosout is gone
            print(self.fault, file=sys.stderr)

    def _detach(self) -> BagWriter | EpisodeMarkers | None:
        """Disconnect the writer from the subscriptions."""
        writer, self._writer = self._writer, None
        for topic in self._topics.found.values() if self._topics else ():
            topic.connection = None
        return writer

    # ---- status --------------------------------------------------------------------------------------------

    def _publish_status(self) -> None:
        if self._topics is None or self._output is None or self.closing or not self.context.ok():
            return
        writer, write = self._writer, self.parameters.write
        state = "inactive" if not self.active else "idle" if writer is None else "recording" if write else "marking"
        snapshot = RecorderSnapshot(
            state=state,
            reason=self.fault or self._news,
            episode=self._machine.current,
            messages=writer.messages if writer else 0,
            size=writer.size if writer else 0,
            backlog=writer.backlog if writer else 0,
            counters=self._machine.counters,
            target=self.parameters.target_episodes,
            free=self._free_gib() - self.parameters.min_free_gib,
            missing=self._topics.missing(self.parameters.required_topics),
        )
        self._status.publish(self._reporter.message(snapshot, self._topics.found.values(), self.now_ns()))

    def _summary(self, info: BagInfo) -> str:
        assert self._machine.last is not None and self._topics is not None
        bag = f"{info.path.name}: {info.messages} messages, {info.duration:.1f} s"
        return summary(
            bag if self.parameters.write else f"{self._machine.last.episode_id}: marked",
            self._machine.counters,
            self.parameters.target_episodes,
            self._free_gib(),
            self._topics.dropped,
            self._topics.gaps,
        )

    def _free_gib(self) -> float:
        return shutil.disk_usage(str(self._output)).free / 2**30

    def _check_disk(self) -> None:
        free, least = self._free_gib(), self.parameters.min_free_gib
        if free < least:
            raise ValueError(
                f"the disk of {self._output} has {free:.1f} GiB left, 'min_free_gib' is {least:g}; make room"
            )


def main() -> None:
    """Entry point."""
    main_of(RecorderNode)


if __name__ == "__main__":
    main()
