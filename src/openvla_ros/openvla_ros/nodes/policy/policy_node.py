"""The policy as a node: newest image and instruction in, ActionChunk out. The policy receives nothing else.

The control mode is the bridge's, as safety/state reports it. Blocking control: predicts on the first image stamped at
or after the bridge's `ready_since`, once for each READY. Streaming control: predicts on the newest image at a fixed
rate. Inference runs in a thread of its own.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState
from openvla_msgs.srv import SetInstruction
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from openvla_ros.control.ready_handshake import ReadyHandshake
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.graph import wait_for_publisher
from openvla_ros.nodes.common.lifecycle_node import ManagedNode, one_line
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE, STREAM
from openvla_ros.nodes.policy.backend import Backend, make_backend
from openvla_ros.nodes.policy.inference_thread import InferenceThread
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.nodes.policy.prediction import Job, Prediction, predict
from openvla_ros.nodes.policy.run_instruction import Outcome, RunInstructionServer, rate

CHECK_PERIOD = 0.05  # [s] between two checks of a run
STATUS_PERIOD = 0.5  # [s] between two messages on policy/status


class PolicyNode(ManagedNode[PolicyParameters]):
    """The node around a policy."""

    def __init__(self) -> None:
        super().__init__(PolicyParameters)
        self._backend: Backend | None = None
        self._policy: Any = None
        self._inference: InferenceThread | None = None
        self._runs: RunInstructionServer | None = None
        self._instruction = ""
        self._reset()

    def _reset(self) -> None:
        self._image: tuple[Any, float] | None = None
        self._safety: SafetyState | None = None
        self._handshake, self._used_ns = ReadyHandshake(), 0
        self._sequence = self._steps = self._episode = 0
        self._first = True
        self._reason, self._state = "", "inactive"
        self._retry_at = 0.0  # [s, monotonic] a server that failed is not asked before
        self._latencies: dict[str, float] = {}
        self._times: deque[float] = deque(maxlen=10)
        self._pending: tuple[int, Any] | None = None  # observation stamp [ns] and first action of the newest chunk
        self._reported: tuple[str, str] = ("", "")

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:
        self._reset()
        image = self.parameters.image
        kind = Image if image.transport == "raw" else CompressedImage
        topic = image.topic + ("" if kind is Image else "/compressed")
        self._backend = make_backend(self.parameters)
        reliable = wait_for_publisher(self, kind, topic, image.timeout, "image.topic")
        self._policy = self._backend.load()  # last of what can fail, since it takes seconds
        self._chunks = self.publisher(ActionChunk, "policy/action_chunk", STATE)
        self._stops = self.publisher(String, "policy/stop", STATE)
        self._status = self.publisher(PolicyStatus, "policy/status", LATCHED)
        reliable = image.reliability == "reliable" or (image.reliability == "auto" and reliable)
        self._image_topic = self.resolve_topic_name(topic)
        self._inference = InferenceThread(self, lambda job: predict(self._policy, job), self._predicted)
        self.subscribe(kind, topic, self._on_image, STREAM if reliable else SENSOR)
        self.subscribe(SafetyState, "safety/state", self._on_safety, LATCHED)
        self.subscribe(String, "instruction", lambda m: self._instruct(m.data), LATCHED)
        self.serve(SetInstruction, "set_instruction", self._on_set_instruction)
        self._runs = RunInstructionServer(self, self.parameters.stall_timeout, self._run_started, self._run_ended)
        self.timer(CHECK_PERIOD, self._check_run, steady=True)
        self.timer(STATUS_PERIOD, self._publish_status, steady=True)
        self.timer(1.0 / self.parameters.rate, self._offer_streaming)
        self._instruct(self.parameters.instruction)

    def activate(self) -> None:
        self.active = True
        self._handshake.reset()
        self._offer()

    def deactivate(self) -> None:
        self._episode += 1  # drops the prediction that is being computed
        self._end_run("the policy was deactivated")
        self._set_state("inactive", "")
        self._stop()

    def release(self) -> None:
        self._end_run("the policy was shut down")
        if self._inference is not None:
            self._inference.close()
            self._inference = None
        if self._backend is not None:
            self._backend.close()
        self._policy = self._backend = self._runs = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        values: dict[str, object] = {
            "rate": f"{rate(self._times):.2f} Hz",
            **{k: f"{1e3 * v:.1f} ms" for k, v in self._latencies.items()},
        }
        return not self.fault and self._state != "error", self.fault or f"{self._state}: {self._reason}", values

    @property
    def _blocking(self) -> bool:
        """Whether the bridge executes an action to its end before the next image; True before it reports its mode."""
        return self._safety is None or self._safety.control_mode == "blocking"

    # ---- subscriptions and services --------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        self._image = (message, time.perf_counter())
        self._offer_blocking()

    def _on_safety(self, message: SafetyState) -> None:
        self._safety = message
        ready_ns = conversions.stamp_ns(message.ready_since) if message.state == SafetyState.READY else 0
        self._handshake.update(ready_ns, message.reason)
        if self._pending and conversions.stamp_ns(message.executed_observation_stamp) == self._pending[0]:
            self._executed()
        if message.state == SafetyState.ESTOP:
            self._end_run(message.reason)
        self._offer_blocking()

    def _executed(self) -> None:
        assert self._pending is not None and self._runs is not None
        self._runs.executed(self._pending[1], self._latencies.get("total", 0.0))
        self._pending = None

    def _instruct(self, instruction: str) -> None:
        """Follow another instruction from the next prediction on; '' stops."""
        instruction = " ".join(str(instruction).split())
        if instruction == self._instruction:
            return
        self._end_run(f"another instruction was given: '{instruction}'", Outcome.CANCELLED)
        self._instruction = instruction
        self._begin()
        if not instruction:
            self._stop()

    def _stop(self) -> None:
        """Ask the bridge to stop now and not at the end of the present action."""
        if not self.closing:  # else the bridge's watchdogs stop it
            self._stops.publish(String(data=ActionChunk.SOURCE_POLICY))

    def _begin(self) -> None:
        self._episode += 1
        self._steps, self._first = 0, True
        self._handshake.reset()
        self._times.clear()
        self._offer_blocking()

    def _on_set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        self._instruct(request.instruction)
        response.success = True
        response.message = (
            f"following '{self._instruction}'" if self._instruction else "no instruction: the robot holds"
        )
        return response

    # ---- prediction ------------------------------------------------------------------------------

    def _offer_blocking(self) -> None:
        if self._inference is not None and self._blocking:
            self._offer()

    def _offer_streaming(self) -> None:
        if not self._blocking:
            self._offer()

    def _offer(self) -> None:
        """Start a prediction if everything it needs is available, else report what is missing."""
        if not self.active or self._inference is None or self._inference.busy or time.monotonic() < self._retry_at:
            return
        missing = self._missing()
        if missing is not None:
            self._set_state("waiting", missing)
            return
        assert self._image is not None
        self._used_ns = conversions.stamp_ns(self._image[0].header.stamp)
        job = Job(*self._image, self._instruction, self._handshake.ready_ns, self._episode, self._first)
        self._inference.submit(job)
        self._first = False
        if (again := self._handshake.mark_started()) and self._blocking:
            self.get_logger().warning(again)
        self._set_state("predicting", "")

    def _missing(self) -> str | None:
        """What a prediction waits for: None for nothing, '' for the end of the present action."""
        if not self._instruction:
            return "no instruction: publish one on 'instruction' or call set_instruction"
        if self._image is None:
            return f"no image yet on {self._image_topic}"
        if self._safety is None:
            return "no safety/state yet: is a bridge running?"
        if self._safety.source not in ("", ActionChunk.SOURCE_POLICY):
            service = self.resolve_service_name("bridge_node/switch_source")
            return (
                f"'{self._safety.source}' is in command of the bridge, not the policy: ros2 service call {service} "
                "openvla_msgs/srv/SwitchSource '{source: policy}'"
            )
        stamp_ns = conversions.stamp_ns(self._image[0].header.stamp)
        age = (self.now_ns() - stamp_ns) * 1e-9
        if not self._blocking:
            if stamp_ns <= self._used_ns:
                return f"no new image on {self._image_topic} for {age:.1f} s"
        else:
            if self._safety.state != SafetyState.READY:
                return "" if self._safety.executing else f"the bridge does not move: {self._safety.reason}"
            if not self._handshake.is_open():
                return ""
            if not self._handshake.is_open(stamp_ns):
                return f"no image on {self._image_topic} since the last action was executed ({age:.1f} s)"
        if age > (limit := self.parameters.image.max_age):
            return f"newest image on {self._image_topic} is {age:.1f} s old, limit {limit:g} s"
        return None

    def _predicted(self, job: Job, result: Prediction | Exception) -> None:
        if not self.active or job.episode != self._episode:
            self._handshake.reset()  # it was of another instruction: predict again
            self._offer()
            return
        if isinstance(result, Exception):
            self._failed(result)
            return
        if self._retry_at:
            self._retry_at = 0.0
            self.get_logger().info("predictions work again")
        chunk, total = result.chunk, time.perf_counter() - job.received
        self._latencies = {"preparation": result.preparation, "inference": result.inference, "total": total}
        message = action_messages.chunk_message(
            chunk.actions, frame=chunk.frame, at_ns=self.now_ns(), observation=job.image.header.stamp,
            sequence=self._sequence, source=ActionChunk.SOURCE_POLICY, instruction=job.instruction,
            period=chunk.period, statistics=(chunk.statistics_name, chunk.statistics_hash), latencies=self._latencies,
        )  # fmt: skip
        self._chunks.publish(message)
        self._handshake.mark_sent(job.ready_ns)
        self._sequence += 1
        self._steps += 1
        self._times.append(time.monotonic())
        if self._pending and not self._blocking:
            self._executed()  # the newer chunk replaces the older one
        self._pending = (conversions.stamp_ns(message.observation_stamp), message.actions[0])
        self._set_state("waiting", "")
        self._publish_status()

    def _failed(self, error: Exception) -> None:
        """Send no action, so that the robot holds. Only a server that is unreachable or too slow is asked again."""
        temporary = isinstance(error, (ConnectionError, TimeoutError)) and getattr(error, "passing", True)
        reason = f"prediction failed: {one_line(error)}"
        if not (temporary and self._retry_at):  # log the first of several failures
            self.get_logger().error(reason)
        self._set_state("error", reason)
        if temporary:
            self._retry_at = time.monotonic() + self.parameters.server.retry
            self._handshake.reset()
        else:
            self._end_run(reason)

    # ---- run_instruction -------------------------------------------------------------------------

    def _run_started(self, instruction: str) -> None:
        self._pending = None
        self._instruction = instruction
        self._begin()

    def _run_ended(self, completed: bool) -> None:
        self._instruction = ""  # nothing moves after a run until there is another instruction
        self._begin()
        if not completed:
            self._stop()

    def _end_run(self, reason: str, outcome: int = Outcome.FAULT) -> None:
        if self._runs is not None:
            self._runs.end(outcome, reason)

    def _check_run(self) -> None:
        assert self._runs is not None
        bridge = self._safety.reason if self._safety is not None else ""
        reasons = [self._reason, f"the bridge says: {bridge}" if bridge and bridge not in self._reason else ""]
        self._runs.check("; ".join(filter(None, reasons)))
        self._offer_blocking()

    # ---- status ----------------------------------------------------------------------------------

    def _set_state(self, state: str, reason: str) -> None:
        self._state, self._reason = state, reason
        # A reason that differs in its numbers only, such as an age, waits for the next regular message.
        report = (state if state != "predicting" else "waiting", "".join(c for c in reason if not c.isdigit()))
        if report != self._reported and reason:
            self._publish_status()
        self._reported = report if reason else self._reported

    def _publish_status(self) -> None:
        backend = self._backend
        if backend is None:
            return
        message = action_messages.status_message(
            self.now_ns(), state=self._state, reason=self._reason, backend=backend.name, checkpoint=backend.checkpoint,
            statistics_name=backend.statistics,
            instruction=self._instruction, step=self._steps, rate=rate(self._times), latencies=self._latencies,
        )  # fmt: skip
        self._status.publish(message)


def main() -> None:
    """Entry point."""
    main_of(PolicyNode)


if __name__ == "__main__":
    main()
