"""A client of a running stack: resets the scene, sends an instruction, watches the score, keeps the images.

The demo, the evaluation and the collection of demonstrations are loops over `Session.run`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from openvla_msgs.action import RunInstruction
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState, SceneScore
from openvla_msgs.srv import ResetScene, StartEpisode, StopEpisode
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from openvla_evaluation.report import outcomes
from openvla_evaluation.report.outcomes import Episode, Step
from openvla_ros.evaluation.episode_log import Heard, key, lifted_names

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CAMERA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RECORDER_PATIENCE = 15.0  # [s]
LAST_LOOK = 0.8  # how long a score may come after the last action [s, wall clock]


class SessionError(RuntimeError):
    """The stack did not answer as it should; the message says what was waited for and what was last heard."""


@dataclass(frozen=True)
class Limits:
    """When an episode is over. `stall`: wall-clock time without an action that counts as a fault [s]."""

    max_steps: int = 80
    stall: float = 45.0
    stop_at_any: bool = True  # False: only lifting the target ends the episode early (corrective demonstrations)


class Session:
    """One client node in one ROS domain, spinning in its own thread.

    `watch` is called while waiting and may raise; `stop` ends what is going on as a Ctrl-C does.
    With `frames` an episode keeps the images that each action was predicted from and executed under.
    """

    def __init__(
        self,
        domain: int,
        *,
        policy: bool,
        recorder: bool = False,
        frames: bool = True,
        watch: Callable[[], None] = lambda: None,
        stop: threading.Event | None = None,
    ) -> None:
        self.policy, self._watch, self._stop = policy, watch, stop or threading.Event()
        self._heard, self._changed = Heard(), threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        name = f"openvla_session_{domain}"  # sessions of several domains may share a process (and its log)
        self.node = rclpy.create_node(name, context=self._context)
        subscribe = self.node.create_subscription
        subscribe(ActionChunk, "policy/action_chunk", self._on_chunk, 50)
        subscribe(SceneScore, "sim/score", self._on_score, 10)
        subscribe(SafetyState, "safety/state", self._on_safety, 10)
        subscribe(PolicyStatus, "policy/status", self._on_status, 10)
        if frames:
            subscribe(Image, "camera/image_raw", self._on_image, CAMERA)
        self._frames = frames
        self._instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self._reset = self.node.create_client(ResetScene, "sim/reset")
        self._services = [self._reset]
        if recorder:
            self._start_episode = self.node.create_client(StartEpisode, "start_episode")
            self._stop_episode = self.node.create_client(StopEpisode, "stop_episode")
            self._services += [self._start_episode, self._stop_episode]
        self._runner = ActionClient(self.node, RunInstruction, "run_instruction") if policy else None
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    # ---- life --------------------------------------------------------------------

    def close(self) -> None:
        """End the client; safe to call twice."""
        if self._context.ok():
            self._executor.shutdown(timeout_sec=1.0)
            self._context.try_shutdown()
        self._thread.join(2.0)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:  # shutdown in the middle of a take shows up as several kinds of RCLError
            if self._context.ok():
                raise

    def wait(self, done: Callable[[], bool], timeout: float, what: str, heed_stop: bool = True) -> None:
        """Block until `done()`; raises SessionError naming `what` after `timeout` seconds.

        A set `stop` event raises KeyboardInterrupt here, as Ctrl-C does in the main thread.
        """
        deadline = time.monotonic() + timeout
        while not done():
            self._watch()
            if heed_stop and self._stop.is_set():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise SessionError(f"waited {timeout:.0f} s for {what}; {self._last_words()}")
            with self._changed:
                self._changed.wait(0.05)

    def wait_ready(self, timeout: float) -> None:
        """Until every service is there and the bridge (and the policy) are active."""
        for client in self._services:
            self.wait(client.service_is_ready, timeout, f"service {client.srv_name}")
        if self._runner is not None:
            self.wait(self._runner.server_is_ready, timeout, "action run_instruction")
        self.wait(self._bridge_active, timeout, "the bridge to become active (safety/state)")
        if self.policy:
            self.wait(self._policy_active, timeout, "the policy to become active (policy/status)")

    def _bridge_active(self) -> bool:
        return self._heard.safety is not None and self._heard.safety.state != SafetyState.INACTIVE

    def _policy_active(self) -> bool:
        return self._heard.status is not None and self._heard.status.state not in ("unconfigured", "inactive")

    @property
    def checkpoint(self) -> str:
        """What the policy says it runs; '' without a policy."""
        return self._heard.status.checkpoint if self._heard.status else ""

    @property
    def control_mode(self) -> str:
        """The bridge's: blocking or streaming; '' before it was heard."""
        return self._heard.safety.control_mode if self._heard.safety else ""

    # ---- requests --------------------------------------------------------------------

    def reset(self, seed: int, target: str = "") -> None:
        """Put the scene to the start state of `seed`; returns when its first score was heard.

        With a `target` an acting expert begins at once, so nothing that arrives from here on is thrown away.
        """
        with self._changed:
            self._heard = Heard(safety=self._heard.safety, status=self._heard.status)
            self._heard.refused_before = self._heard.safety.refused_count if self._heard.safety else 0
        answer = self.call(self._reset, ResetScene.Request(seed=seed, target=target), 20.0)
        if not answer.success:
            raise SessionError(f"the simulator refused to reset to seed {seed}: {answer.message}")
        # The same seed may come twice in a row: the seed alone does not tell an old score from a new one.
        self.wait(lambda: self._fresh_score(seed) is not None, 20.0, f"the score of seed {seed}")
        with self._changed:
            since = self._fresh_score(seed) or (0, 0)
            kept = [chunk for chunk in self._heard.chunks if key(chunk.observation_stamp) >= since]
            self._heard.arrivals = self._heard.arrivals[len(self._heard.chunks) - len(kept) :]
            self._heard.chunks = kept
            self._heard.images = [image for image in self._heard.images if key(image.header.stamp) >= since]
            self._heard.lifted.clear()
        # Else a policy could still be told that the bridge is ready for an image from before the reset.
        self.wait(lambda: self._ready_since(since), 20.0, "the bridge to be ready after the reset")

    def announce(self, instruction: str) -> None:
        """Publish the sentence on `instruction`, where a recorder looks. With a policy it would act on it at once."""
        self._instruction.publish(String(data=instruction))

    def start_recording(self, instruction: str, note: str) -> StartEpisode.Response:
        """Start an episode's bag. Asks again for a while: a new recorder has not discovered every topic yet."""
        request = StartEpisode.Request(instruction=instruction, operator_note=note)
        deadline = time.monotonic() + RECORDER_PATIENCE
        while not (answer := self.call(self._start_episode, request, 20.0)).success:
            if time.monotonic() > deadline:
                raise SessionError(f"the recorder refused to start: {answer.message}")
            time.sleep(0.2)
        return answer

    def stop_recording(self, outcome: int, score: float, note: str) -> StopEpisode.Response:
        """Close (or discard) the episode's bag."""
        request = StopEpisode.Request(outcome=outcome, score=float(score), note=note)
        # Not to be interrupted: an open bag must be closed (or deleted) in any case.
        answer = self.call(self._stop_episode, request, 30.0, heed_stop=False)
        if not answer.success:
            raise SessionError(f"the recorder refused to stop: {answer.message}")
        return answer

    def call(self, client: Any, request: Any, timeout: float, heed_stop: bool = True) -> Any:
        """The answer of a service. Raises SessionError when there is none in time."""
        future = client.call_async(request)
        future.add_done_callback(self._notify)
        self.wait(future.done, timeout, f"an answer of {client.srv_name}", heed_stop)
        return future.result()

    # ---- episodes --------------------------------------------------------------------

    def run(
        self,
        index: int,
        seed: int,
        instruction: str,
        target: str,
        limits: Limits,
        on_step: Callable[[int, Step], None] = lambda count, step: None,
    ) -> Episode:
        """Follow `instruction` on the scene that was reset before, until it is decided.

        `on_step` gets the number of actions so far and the newest one with the newest image, whenever either is
        new. A Ctrl-C ends the episode as `interrupted` instead of raising, so that what was done is not lost.
        Raises what `watch` raises.
        """
        started = time.monotonic()
        outcome = reason = ""
        goal = None
        try:
            if self._runner is not None:
                goal = self._send_goal(instruction, limits)
            reason = self._follow(target, limits, goal, on_step)
        except KeyboardInterrupt:
            outcome, reason = outcomes.INTERRUPTED, "stopped by a person"
        except SessionError as error:
            outcome, reason = outcomes.FAULT, str(error)
        finally:
            self._end(goal)
        return self._episode(index, seed, instruction, target, outcome, reason, time.monotonic() - started)

    def _follow(self, target: str, limits: Limits, goal: _Goal | None, on_step: Callable[[int, Step], None]) -> str:
        told, seen, newest = 0, (0, 0), time.monotonic()
        while True:
            self._watch()
            if self._stop.is_set():
                raise KeyboardInterrupt
            with self._changed:
                self._changed.wait(0.05)
                count, lifted = len(self._heard.chunks), sorted(self._heard.lifted)
                images = len(self._heard.images)
            if count > told:
                told, newest = count, time.monotonic()
            if count and (count, images) != seen:
                seen = (count, images)
                with self._changed:
                    newest_step = self._heard.newest_step()
                on_step(count, newest_step)
            if lifted and (limits.stop_at_any or target in lifted):
                return f"lifted: {', '.join(lifted)}"
            if goal is not None and goal.result is not None:
                self._one_more_score()
                if goal.result.outcome == RunInstruction.Result.FAULT:
                    raise SessionError(f"the policy gave up: {goal.result.reason}")
                return goal.result.reason or "all steps executed"
            if goal is None and self._executed_all(limits.max_steps):
                self._one_more_score()
                return f"{limits.max_steps} steps executed"
            if time.monotonic() - newest > limits.stall:
                raise SessionError(f"no action for {limits.stall:.0f} s; {self._last_words()}")

    def _send_goal(self, instruction: str, limits: Limits) -> _Goal:
        assert self._runner is not None
        request = RunInstruction.Goal(instruction=instruction, max_steps=limits.max_steps, timeout=0.0)
        future = self._runner.send_goal_async(request)
        future.add_done_callback(self._notify)
        self.wait(future.done, 20.0, "the policy to accept the instruction")
        handle = future.result()
        if not handle.accepted:
            raise SessionError(f"the policy rejected the instruction {instruction!r}; {self._last_words()}")
        goal = _Goal(handle)
        result = handle.get_result_async()
        result.add_done_callback(goal.on_result)
        result.add_done_callback(self._notify)
        return goal

    def _end(self, goal: _Goal | None) -> None:
        """Nothing may act on the next scene with this episode's instruction: wait until the goal is over."""
        if goal is None or goal.result is not None or not self._context.ok():
            return
        goal.handle.cancel_goal_async()
        deadline = time.monotonic() + 10.0
        while goal.result is None and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(0.05)

    def _executed_all(self, count: int) -> bool:
        """Whether `count` actions were sent and the last of them was executed to its end."""
        with self._changed:
            if len(self._heard.chunks) < count:
                return False
            safety, last = self._heard.safety, self._heard.chunks[count - 1]
            return safety is not None and key(safety.executed_observation_stamp) >= key(last.observation_stamp)

    def _one_more_score(self) -> None:
        """The last action may have done it: a cube must stay up for a moment before it counts."""
        deadline = time.monotonic() + LAST_LOOK
        while not self._heard.lifted and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(0.05)

    # ---- what is kept --------------------------------------------------------------------

    def _episode(
        self, index: int, seed: int, instruction: str, target: str, outcome: str, reason: str, duration: float
    ) -> Episode:
        with self._changed:
            heard = self._heard.copy()
        lifted = tuple(sorted(heard.lifted))
        return Episode(
            index=index,
            seed=seed,
            instruction=instruction,
            target=target,
            outcome=outcome or outcomes.judge(target, lifted),
            reason=reason,
            lifted=lifted,
            count=len(heard.chunks),
            duration=duration,
            latencies=tuple(chunk.latency_total for chunk in heard.chunks),
            inference=tuple(chunk.latency_inference for chunk in heard.chunks),
            refused=(heard.safety.refused_count - heard.refused_before) if heard.safety else 0,
            steps=heard.steps(),
        )

    # ---- callbacks (executor's thread) --------------------------------------------------------------------

    def _notify(self, _: object = None) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_chunk(self, message: ActionChunk) -> None:
        with self._changed:
            self._heard.chunks.append(message)
            self._heard.arrivals.append(time.monotonic())
            self._changed.notify_all()

    def _on_image(self, message: Image) -> None:
        with self._changed:
            self._heard.images.append(message)

    def _on_score(self, message: SceneScore) -> None:
        with self._changed:
            self._heard.score = message
            self._heard.lifted.update(lifted_names(message))
            self._changed.notify_all()

    def _on_safety(self, message: SafetyState) -> None:
        with self._changed:
            self._heard.safety = message
            self._changed.notify_all()

    def _on_status(self, message: PolicyStatus) -> None:
        with self._changed:
            self._heard.status = message
            self._changed.notify_all()

    def _fresh_score(self, seed: int) -> tuple[int, int] | None:
        """Stamp of the first score after a reset to `seed`, on which nothing is lifted yet."""
        score = self._heard.score
        return key(score.header.stamp) if score and score.seed == seed and not score.done else None

    def _ready_since(self, stamp: tuple[int, int]) -> bool:
        safety = self._heard.safety
        ready = (SafetyState.READY, SafetyState.EXECUTING)
        return safety is not None and safety.state in ready and key(safety.header.stamp) >= stamp

    def _last_words(self) -> str:
        return self._heard.last_words(self.policy)


class _Goal:
    """A running RunInstruction goal and, once it ended, its result."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.result: RunInstruction.Result | None = None

    def on_result(self, future: Any) -> None:
        self.result = future.result().result
