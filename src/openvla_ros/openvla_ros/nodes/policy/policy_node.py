"""The policy as a node: newest image + instruction → ActionChunk. Nothing else ever reaches the policy.

Blocking control: predicts on the first image stamped at or after the bridge's `ready_since`, once for each READY.
Streaming control: predicts on the newest image at a rate. Inference runs in a worker thread.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from openvla_msgs.action import RunInstruction
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState
from openvla_msgs.srv import SetInstruction
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from openvla_policy.contract.camera import to_rgb
from openvla_policy.contract.observation import Observation
from openvla_ros.control.ready_handshake import ReadyHandshake
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.graph import wait_for_publisher
from openvla_ros.nodes.common.lifecycle_node import ManagedNode, one_line
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE, STREAM
from openvla_ros.nodes.policy.backend import Backend, make_backend
from openvla_ros.nodes.policy.inference_thread import Worker
from openvla_ros.nodes.policy.parameters import PARAMETERS
from openvla_ros.nodes.policy.run_instruction import Run, rate

Outcome = RunInstruction.Result


@dataclass(frozen=True)
class Job:
    """One prediction: an image message, when it came [s, wall], and what to do with it."""

    image: Any
    received: float
    instruction: str
    ready_ns: int
    episode: int
    fresh: bool  # the first prediction of an instruction: the policy forgets what was before


class PolicyNode(ManagedNode):
    """The node around a policy."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__("policy_node")
        self._backend: Backend | None = None
        self._policy: Any = None
        self._worker: Worker | None = None
        self._run: Run | None = None
        self._instruction = ""
        self._forget()

    def _forget(self) -> None:
        self._image: tuple[Any, float] | None = None
        self._safety: SafetyState | None = None
        self._handshake, self._used_ns = ReadyHandshake(), 0
        self._sequence = self._steps = self._episode = 0
        self._fresh = True
        self._reason, self._state = "", "inactive"
        self._retry_at = 0.0  # [s, monotonic] the server failed, and is not asked before then
        self._latencies: dict[str, float] = {}
        self._times: deque[float] = deque(maxlen=10)
        self._flying: tuple[int, Any] | None = None  # observation stamp and first action of the newest chunk
        self._said: tuple[str, str] = ("", "")

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:  # noqa: D102
        self._forget()
        kind = Image if self.value("image.transport") == "raw" else CompressedImage
        topic = self.value("image.topic") + ("" if kind is Image else "/compressed")
        self._backend = make_backend(self.value)
        reliable = wait_for_publisher(self, kind, topic, self.value("image.timeout"), "image.topic")
        self._policy = self._backend.load()  # last of what can fail: it takes seconds
        self._chunks = self.publisher(ActionChunk, "policy/action_chunk", STATE)
        self._stops = self.publisher(String, "policy/stop", STATE)
        self._status = self.publisher(PolicyStatus, "policy/status", LATCHED)
        wanted = self.value("image.reliability")
        profile = STREAM if wanted == "reliable" or (wanted == "auto" and reliable) else SENSOR
        self._image_topic = self.resolve_topic_name(topic)
        self._worker = Worker(self, self._predict, self._predicted)
        self.subscribe(kind, topic, self._on_image, profile)
        self.subscribe(SafetyState, "safety/state", self._on_safety, LATCHED)
        self.subscribe(String, "instruction", lambda m: self._instruct(m.data), LATCHED)
        self.serve(SetInstruction, "set_instruction", self._on_set_instruction)
        server = ActionServer(
            self, RunInstruction, "run_instruction", self._execute,
            goal_callback=self._on_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip
        self._own(lambda s: s.destroy(), server)
        self.timer(0.05, self._watch, steady=True)
        self.timer(0.5, self._publish_status, steady=True)
        if self.value("control_mode") == "streaming":
            self.timer(1.0 / self.value("rate"), self._offer)
        self._instruct(self.value("instruction"))

    def activate(self) -> None:  # noqa: D102
        self.active = True
        self._handshake.reset()
        self._offer()

    def deactivate(self) -> None:  # noqa: D102
        self._episode += 1  # whatever is being computed is not to be sent
        self._end_run(Outcome.FAULT, "the policy was deactivated")
        self._set_state("inactive", "")
        self._stop()

    def release(self) -> None:  # noqa: D102
        self._end_run(Outcome.FAULT, "the policy was shut down")
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._backend is not None:
            self._backend.close()
        self._policy = self._backend = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:  # noqa: D102
        values: dict[str, object] = {
            "rate": f"{rate(self._times):.2f} Hz",
            **{k: f"{1e3 * v:.1f} ms" for k, v in self._latencies.items()},
        }
        return not self.fault and self._state != "error", self.fault or f"{self._state}: {self._reason}", values

    # ---- what comes in ---------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        self._image = (message, time.perf_counter())
        self._offer_blocking()

    def _on_safety(self, message: SafetyState) -> None:
        self._safety = message
        ready_ns = conversions.stamp_ns(message.ready_since) if message.state == SafetyState.READY else 0
        self._handshake.update(ready_ns, message.reason)
        if self._flying and conversions.stamp_ns(message.executed_observation_stamp) == self._flying[0]:
            self._executed()
        if self._run is not None and message.state == SafetyState.ESTOP:
            self._end_run(Outcome.FAULT, message.reason)
        self._offer_blocking()

    def _executed(self) -> None:
        assert self._flying is not None
        if self._run is not None:
            self._run.executed(self._flying[1], self._latencies.get("total", 0.0), self.now_ns())
        self._flying = None

    def _instruct(self, instruction: str) -> None:
        """Follow another instruction from the next step on; '' stops."""
        instruction = " ".join(str(instruction).split())
        if instruction == self._instruction:
            return
        if self._run is not None and instruction != self._run.instruction:
            self._end_run(Outcome.CANCELLED, f"another instruction was given: '{instruction}'")
        self._instruction = instruction
        self._begin()
        if not instruction:
            self._stop()

    def _stop(self) -> None:
        """Ask the bridge to stand now, not at the end of the action under way."""
        if not self.closing:  # else the bridge's watchdogs do it
            self._stops.publish(String(data=ActionChunk.SOURCE_POLICY))

    def _begin(self) -> None:
        self._episode += 1
        self._steps, self._fresh = 0, True
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
        if self._worker is not None and self.value("control_mode") == "blocking":
            self._offer()

    def _offer(self) -> None:
        """Start a prediction if everything for one is there, else note what is missing."""
        if not self.active or self._worker is None or self._worker.busy or time.monotonic() < self._retry_at:
            return
        why = self._missing()
        if why is not None:
            self._set_state("waiting", why)
            return
        assert self._image is not None
        self._used_ns = conversions.stamp_ns(self._image[0].header.stamp)
        self._worker.submit(Job(*self._image, self._instruction, self._handshake.ready_ns, self._episode, self._fresh))
        self._fresh = False
        if (again := self._handshake.mark_started()) and self.value("control_mode") == "blocking":
            self.get_logger().warning(again)
        self._set_state("predicting", "")

    def _missing(self) -> str | None:
        """What a prediction has to wait for; None when nothing, '' when only for the present action's end."""
        if not self._instruction:
            return "no instruction: publish one on 'instruction' or call set_instruction"
        if self._image is None:
            return f"no image yet on {self._image_topic}"
        if self._safety is not None and self._safety.source not in ("", ActionChunk.SOURCE_POLICY):
            service = self.resolve_service_name("bridge_node/switch_source")
            return (
                f"'{self._safety.source}' is in command of the bridge, not the policy: ros2 service call {service} "
                "openvla_msgs/srv/SwitchSource '{source: policy}'"
            )
        stamp_ns = conversions.stamp_ns(self._image[0].header.stamp)
        age = (self.now_ns() - stamp_ns) * 1e-9
        if self.value("control_mode") == "streaming":
            if stamp_ns <= self._used_ns:
                return f"no new image on {self._image_topic} for {age:.1f} s"
        else:
            if self._safety is None:
                return "no safety/state yet: is a bridge running?"
            if self._safety.state != SafetyState.READY:
                return "" if self._safety.executing else f"the bridge does not move: {self._safety.reason}"
            if not self._handshake.is_open():
                return ""
            if not self._handshake.is_open(stamp_ns):
                return f"no image on {self._image_topic} since the last action was executed ({age:.1f} s)"
        if age > self.value("image.max_age"):
            return f"newest image on {self._image_topic} is {age:.1f} s old, limit {self.value('image.max_age'):g} s"
        return None

    def _predict(self, job: Job) -> Any:
        """In the worker's thread."""
        started = time.perf_counter()
        if job.fresh:
            self._policy.reset()
        picture = to_rgb(job.image)
        converted = time.perf_counter() - started
        stamp = conversions.stamp_ns(job.image.header.stamp) * 1e-9
        chunk = self._policy.predict(Observation(image=picture, stamp=stamp), job.instruction)
        return chunk, converted

    def _predicted(self, job: Job, result: Any) -> None:
        if not self.active or job.episode != self._episode:
            self._handshake.reset()  # asked under another instruction: ask again
            self._offer()
            return
        if isinstance(result, Exception):
            self._failed(result)
            return
        if self._retry_at:
            self._retry_at = 0.0
            self.get_logger().info("predictions work again")
        chunk, converted = result
        inference = float(chunk.timings.get("inference", 0.0))
        preparation = converted + float(chunk.timings.get("preparation", 0.0))
        total = time.perf_counter() - job.received
        self._latencies = {"preparation": preparation, "inference": inference, "total": total}
        message = action_messages.chunk_message(
            chunk.actions, frame=chunk.frame, at_ns=self.now_ns(), observation=job.image.header.stamp,
            sequence=self._sequence, source=ActionChunk.SOURCE_POLICY, instruction=job.instruction,
            period=chunk.period, statistics=(chunk.statistics_name, chunk.statistics_hash), latencies=self._latencies,
        )  # fmt: skip
        self._chunks.publish(message)
        self._handshake.mark_sent(job.ready_ns)  # from now on the bridge may be waited for
        self._sequence += 1
        self._steps += 1
        self._times.append(time.monotonic())
        if self._flying and self.value("control_mode") == "streaming":
            self._executed()  # the newer chunk takes the older one's place
        self._flying = (conversions.stamp_ns(message.observation_stamp), message.actions[0])
        self._set_state("waiting", "")
        self._publish_status()

    def _failed(self, error: Exception) -> None:
        """No action, so the robot holds. A server that is away or too slow is asked again; what else fails is not."""
        passing = isinstance(error, (ConnectionError, TimeoutError)) and getattr(error, "passing", True)
        reason = f"prediction failed: {one_line(error)}"
        if not (passing and self._retry_at):  # once, not every second
            self.get_logger().error(reason)
        self._set_state("error", reason)
        if passing:
            self._retry_at = time.monotonic() + self.value("server.retry")
            self._handshake.reset()
        else:
            self._end_run(Outcome.FAULT, reason)

    # ---- run_instruction -------------------------------------------------------------------------

    def _on_goal(self, request: RunInstruction.Goal) -> GoalResponse:
        wrong = (
            "the policy is not active" if not self.active
            else "the instruction is empty" if not str(request.instruction).strip()
            else f"'{self._run.instruction}' is still running: cancel it first" if self._run is not None
            else "timeout is not a number from 0 up" if not request.timeout >= 0.0 else ""
        )  # fmt: skip
        if wrong:
            self.get_logger().warning(f"run_instruction refused: {wrong}")
        return GoalResponse.REJECT if wrong else GoalResponse.ACCEPT

    async def _execute(self, goal: Any) -> Any:
        if self._run is not None:  # two goals accepted before the first began
            goal.abort()
            return Outcome(outcome=Outcome.FAULT, reason=f"'{self._run.instruction}' is still running")
        run = self._run = Run(goal, self.now_ns(), self.value("stall_timeout"))
        self._flying = None
        self._instruction = run.instruction = " ".join(run.instruction.split())
        self._begin()
        result = await run.ended
        if self._run is run:
            self._close_run()
        finish = {
            Outcome.CANCELLED: goal.canceled if goal.is_cancel_requested else goal.abort,
            Outcome.FAULT: goal.abort,
        }
        finish.get(result.outcome, goal.succeed)()
        return result

    def _end_run(self, outcome: int, reason: str) -> None:
        if self._run is not None:
            self._run.end(outcome, reason, self.now_ns())
            self._close_run()

    def _close_run(self) -> None:
        assert self._run is not None
        completed = self._run.ended.result().outcome == Outcome.COMPLETED_STEPS
        self._run = None
        self._instruction = ""  # nothing moves after a run until somebody asks for it
        self._begin()
        if not completed:
            self._stop()

    def _watch(self) -> None:
        if self._run is not None:
            self._run.check(self.now_ns(), self._hindrance())
            if self._run.ended.done():
                self._close_run()
        self._offer_blocking()

    def _hindrance(self) -> str:
        """Why nothing is executed, as far as the policy and the bridge say; '' when neither does."""
        bridge = self._safety.reason if self._safety is not None else ""
        said = [self._reason, f"the bridge says: {bridge}" if bridge and bridge not in self._reason else ""]
        return "; ".join(filter(None, said))

    # ---- status ----------------------------------------------------------------------------------

    def _set_state(self, state: str, reason: str) -> None:
        self._state, self._reason = state, reason
        shown = (state if state != "predicting" else "waiting", "".join(c for c in reason if not c.isdigit()))
        if shown != self._said and reason:
            self._publish_status()
        self._said = shown if reason else self._said

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
