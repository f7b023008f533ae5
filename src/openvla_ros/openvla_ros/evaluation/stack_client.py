"""A ROS client of a running stack: resets the scene, starts instructions and recordings, logs the stack's messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from openvla_msgs.action import RunInstruction
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState, SceneScore
from openvla_msgs.srv import ResetScene, StartEpisode, StopEpisode
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from openvla_ros.evaluation.episode_log import EpisodeLog, Stamp, lifted_names, stamp_key
from openvla_ros.nodes.common.qos import LATCHED, SENSOR

POLL = 0.05  # [s] between two looks at a condition, where no message arrives
RECORDER_TIMEOUT = 15.0  # [s]


class StackError(RuntimeError):
    """The stack did not respond as it should; the message says what was waited for and the last known state."""


class Goal:
    """A running `run_instruction` goal and, once it has ended, its result."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.result: RunInstruction.Result | None = None

    def on_result(self, future: Any) -> None:
        """Keep the result; a done callback of the result future."""
        self.result = future.result().result

    def cancel(self) -> None:
        """Request the end of the goal; does not wait for it."""
        self._handle.cancel_goal_async()


class StackClient:
    """A client node in one ROS domain, which spins in its own thread.

    Args:
        domain: The stack's ROS domain.
        policy: The stack has a policy node.
        recorder: The stack has a recorder.
        frames: Subscribe to the camera, so that an episode's steps have images.
        watch: Called while waiting; may raise, e.g. when a process of the stack died.
        stop: Ends what is in progress, as Ctrl-C does.
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
        self.policy = policy
        self.log = EpisodeLog()  # guarded by `changed`; `reset` replaces it
        self.changed = threading.Condition()
        self._watch, self._stop = watch, stop or threading.Event()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        name = f"openvla_client_{domain}"  # clients of several domains may share a process, and its log
        self.node = rclpy.create_node(name, context=self._context)
        subscribe = self.node.create_subscription
        subscribe(ActionChunk, "policy/action_chunk", self._on_chunk, 50)
        subscribe(SceneScore, "sim/score", self._on_score, 10)
        subscribe(SafetyState, "safety/state", self._on_safety, 10)
        subscribe(PolicyStatus, "policy/status", self._on_status, 10)
        if frames:
            subscribe(Image, "camera/image_raw", self._on_image, SENSOR)
        self._instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self._reset = self.node.create_client(ResetScene, "sim/reset")
        self._services = [self._reset]
        if recorder:
            self._start_episode = self.node.create_client(StartEpisode, "start_episode")
            self._stop_episode = self.node.create_client(StopEpisode, "stop_episode")
            self._services += [self._start_episode, self._stop_episode]
        self._instruction_runner = ActionClient(self.node, RunInstruction, "run_instruction") if policy else None
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    # ---- lifetime --------------------------------------------------------------------------------

    def close(self) -> None:
        """End the client; safe to call twice."""
        if self._context.ok():
            self._executor.shutdown(timeout_sec=1.0)
            self._context.try_shutdown()
        self._thread.join(2.0)

    def __enter__(self) -> StackClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:  # a shutdown in the middle of a take raises one of several RCLErrors
            if self._context.ok():
                raise

    @property
    def is_open(self) -> bool:
        """False after `close`."""
        return bool(self._context.ok())

    # ---- waiting ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Call `watch`; raise KeyboardInterrupt, as Ctrl-C does in the main thread, when `stop` is set."""
        self._watch()
        if self._stop.is_set():
            raise KeyboardInterrupt

    def pause(self) -> None:
        """Wait for the next message, at most POLL seconds."""
        with self.changed:
            self.changed.wait(POLL)

    def wait(self, done: Callable[[], bool], timeout: float, what: str, heed_stop: bool = True) -> None:
        """Block until a condition holds.

        Args:
            done: The condition.
            timeout: Longest time to wait [s].
            what: What is waited for, for the error message.
            heed_stop: Raise KeyboardInterrupt when `stop` is set.

        Raises:
            StackError: The condition did not hold within `timeout`.
        """
        deadline = time.monotonic() + timeout
        while not done():
            if heed_stop:
                self.check()
            else:
                self._watch()
            if time.monotonic() > deadline:
                raise StackError(f"waited {timeout:.0f} s for {what}; {self.state_text()}")
            self.pause()

    def wait_ready(self, timeout: float, report: Callable[[str], None] = lambda what: None) -> None:
        """Wait until all services are available, and the bridge and the policy are active.

        Args:
            timeout: Longest time to wait for each of them [s].
            report: Receives what is waited for, before a wait.
        """
        conditions = [(client.service_is_ready, f"service {client.srv_name}") for client in self._services]
        if self._instruction_runner is not None:
            conditions.append((self._instruction_runner.server_is_ready, "the policy node (action run_instruction)"))
        conditions.append((self._bridge_active, "the bridge to become active (safety/state)"))
        if self.policy:
            conditions.append((self._policy_active, "the policy to load its checkpoint (policy/status)"))
        for condition, what in conditions:
            if not condition():
                report(what)
                self.wait(condition, timeout, what)

    def _bridge_active(self) -> bool:
        return self.log.safety is not None and self.log.safety.state != SafetyState.INACTIVE

    def _policy_active(self) -> bool:
        return self.log.status is not None and self.log.status.state not in ("unconfigured", "inactive")

    def state_text(self) -> str:
        """The latest states that the bridge and the policy reported, for error messages."""
        return self.log.state_text(self.policy)

    @property
    def checkpoint(self) -> str:
        """The checkpoint that the policy reports; '' without a policy."""
        return self.log.status.checkpoint if self.log.status else ""

    @property
    def control_mode(self) -> str:
        """The bridge's: blocking or streaming; '' before it reported one."""
        return self.log.safety.control_mode if self.log.safety else ""

    # ---- requests --------------------------------------------------------------------------------

    def reset(self, seed: int, target: str = "") -> None:
        """Reset the scene and wait for its first score; the log then begins with this scene.

        Args:
            seed: Seed of the scene.
            target: Object for an acting expert, which starts at once.

        Raises:
            StackError: The simulator refused, or did not answer in time.
        """
        with self.changed:
            self.log = self.log.restarted()
        answer = self.call(self._reset, ResetScene.Request(seed=seed, target=target), 20.0)
        if not answer.success:
            raise StackError(f"the simulator refused to reset to seed {seed}: {answer.message}")
        # Two resets in a row may have the same seed: the seed alone does not tell an old score from a new one.
        self.wait(lambda: self._fresh_score(seed) is not None, 20.0, f"the score of seed {seed}")
        with self.changed:
            since = self._fresh_score(seed) or (0, 0)
            self.log.discard_before(since)
        # Otherwise the policy could receive the bridge's ready message for an image from before the reset.
        self.wait(lambda: self._ready_since(since), 20.0, "the bridge to be ready after the reset")

    def send_goal(self, instruction: str, max_steps: int) -> Goal | None:
        """Start an instruction on the policy node.

        Args:
            instruction: What the policy shall do.
            max_steps: Actions after which it ends.

        Returns:
            The running goal; None in a stack without a policy.

        Raises:
            StackError: The policy rejected the instruction, or did not answer in time.
        """
        if self._instruction_runner is None:
            return None
        request = RunInstruction.Goal(instruction=instruction, max_steps=max_steps, timeout=0.0)
        future = self._instruction_runner.send_goal_async(request)
        future.add_done_callback(self._notify)
        self.wait(future.done, 20.0, "the policy to accept the instruction")
        handle = future.result()
        if not handle.accepted:
            raise StackError(f"the policy rejected the instruction {instruction!r}; {self.state_text()}")
        goal = Goal(handle)
        result = handle.get_result_async()
        result.add_done_callback(goal.on_result)
        result.add_done_callback(self._notify)
        return goal

    def publish_instruction(self, instruction: str) -> None:
        """Publish on `instruction`, which a recorder subscribes to. A policy would act on it at once."""
        self._instruction.publish(String(data=instruction))

    def start_recording(self, instruction: str, note: str) -> StartEpisode.Response:
        """Start an episode's bag; retries, since a new recorder has not discovered every topic yet.

        Args:
            instruction: The episode's instruction.
            note: Stored in the bag.

        Returns:
            The recorder's answer, with the episode's id.

        Raises:
            StackError: The recorder refused for RECORDER_TIMEOUT seconds.
        """
        request = StartEpisode.Request(instruction=instruction, operator_note=note)
        deadline = time.monotonic() + RECORDER_TIMEOUT
        while not (answer := self.call(self._start_episode, request, 20.0)).success:
            if time.monotonic() > deadline:
                raise StackError(f"the recorder refused to start: {answer.message}")
            time.sleep(0.2)
        return answer

    def stop_recording(self, outcome: int, score: float, note: str) -> StopEpisode.Response:
        """Close, or discard, the episode's bag.

        Args:
            outcome: A constant of StopEpisode.Request.
            score: 0 to 1.
            note: Stored in the bag.

        Returns:
            The recorder's answer, with the bag's path.

        Raises:
            StackError: The recorder refused, or did not answer in time.
        """
        request = StopEpisode.Request(outcome=outcome, score=float(score), note=note)
        # `stop` does not interrupt this: an open bag must be closed or deleted in any case.
        answer = self.call(self._stop_episode, request, 30.0, heed_stop=False)
        if not answer.success:
            raise StackError(f"the recorder refused to stop: {answer.message}")
        return answer

    def call(self, client: Any, request: Any, timeout: float, heed_stop: bool = True) -> Any:
        """Call a service and wait for its response, as `wait` does."""
        future = client.call_async(request)
        future.add_done_callback(self._notify)
        self.wait(future.done, timeout, f"a response of service {client.srv_name}", heed_stop)
        return future.result()

    def _fresh_score(self, seed: int) -> Stamp | None:
        """Stamp of the first score after a reset to `seed`, in which nothing is lifted yet."""
        score = self.log.score
        return stamp_key(score.header.stamp) if score and score.seed == seed and not score.done else None

    def _ready_since(self, stamp: Stamp) -> bool:
        safety = self.log.safety
        ready = (SafetyState.READY, SafetyState.EXECUTING)
        return safety is not None and safety.state in ready and stamp_key(safety.header.stamp) >= stamp

    # ---- callbacks, in the executor's thread -----------------------------------------------------

    def _notify(self, _: object = None) -> None:
        with self.changed:
            self.changed.notify_all()

    def _on_chunk(self, message: ActionChunk) -> None:
        with self.changed:
            self.log.chunks.append(message)
            self.log.arrivals.append(time.monotonic())
            self.changed.notify_all()

    def _on_image(self, message: Image) -> None:
        with self.changed:
            self.log.images.append(message)

    def _on_score(self, message: SceneScore) -> None:
        with self.changed:
            self.log.score = message
            self.log.lifted.update(lifted_names(message))
            self.changed.notify_all()

    def _on_safety(self, message: SafetyState) -> None:
        with self.changed:
            self.log.safety = message
            self.changed.notify_all()

    def _on_status(self, message: PolicyStatus) -> None:
        with self.changed:
            self.log.status = message
            self.changed.notify_all()
