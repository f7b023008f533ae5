"""The simulator behind the topics of a real robot: an arm, three cubes, a camera and the clock.

One thread owns the physics and the OpenGL context (both belong to the thread that created them): it advances the scene
in small steps against the wall clock and publishes. Callbacks only store requests for it. When the machine cannot keep
up, simulated time runs slower; no step is skipped.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from openvla_msgs.msg import ActionChunk, SafetyState, SceneScore
from openvla_msgs.srv import ResetScene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from openvla_evaluation.suites.cubes import instruction_for
from openvla_ros.nodes.common import action_messages, conversions, image_messages
from openvla_ros.nodes.common.lifecycle_node import ManagedNode, RCLError, one_line
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED, NEWEST, STATE, STREAM
from openvla_ros.nodes.sim.drivers import make_driver
from openvla_ros.nodes.sim.expert_source import ExpertSource
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.sim.scene import CameraConfig
from openvla_ros.sim.scoring import Scorer

NS = 1_000_000_000
START_TIMEOUT = 60.0  # [s] for the physics to start: the first compilation of the model reads the meshes


@dataclass
class Reset:
    """A request to the physics thread to reset the scene, and its answer."""

    seed: int
    target: str
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class SimNode(ManagedNode[SimParameters]):
    """The simulator."""

    def __init__(self) -> None:
        super().__init__(SimParameters)
        self._physics: threading.Thread | None = None
        self._stop = threading.Event()
        self._time_ns = 0  # simulated time [ns]; never goes back

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:
        if not self.parameters.publish_clock and self.parameters.real_time_factor != 1.0:
            raise ValueError(
                "real_time_factor other than 1.0 needs publish_clock true, and use_sim_time on all other nodes"
            )
        self._stop.clear()
        self._requests: queue.SimpleQueue[Reset] = queue.SimpleQueue()
        self._driver = make_driver(self)
        self._ready_ns = self._seen_ready_ns = self._reset_ns = 0
        self._frozen: np.ndarray | None = None
        self._score: tuple[bool, ...] = ()
        self._disturbed: tuple[str, ...] = ()
        self._clock_pub = self.publisher(Clock, "/clock", NEWEST) if self.parameters.publish_clock else None
        self._image_pub = self.publisher(Image, "camera/image_raw", STREAM)
        self._jpeg_pub = self.publisher(CompressedImage, "camera/image_raw/compressed", STREAM)
        self._info_pub = self.publisher(CameraInfo, "camera/camera_info", STREAM)
        self._score_pub = self.publisher(SceneScore, "sim/score", LATCHED)
        self._restarted_pub = self.publisher(Header, "robot/restarted", STATE)
        self._label_pub = self.publisher(ActionChunk, "expert/action_chunk", STATE)
        acts = self.parameters.expert.role == "act"
        self._command_pub = self.publisher(ActionChunk, "policy/action_chunk", STATE) if acts else None
        self._driver.connect()
        self.subscribe(SafetyState, "safety/state", self._on_safety, STATE)
        self.serve(ResetScene, "sim/reset", self._on_reset)
        started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._physics = threading.Thread(target=self._run, args=(started,), name="physics", daemon=True)
        self._physics.start()
        try:
            error = started.get(timeout=START_TIMEOUT)
        except queue.Empty:
            raise TimeoutError(f"the simulator did not start within {START_TIMEOUT:g} s") from None
        if error is not None:
            raise RuntimeError(f"the simulator did not start (is MUJOCO_GL 'osmesa' or 'egl'?): {one_line(error)}")

    def deactivate(self) -> None:
        self._driver.drop_requests()

    def release(self) -> None:
        self._stop.set()
        if self._physics is not None and self._physics is not threading.current_thread():
            self._physics.join(timeout=5.0)
            self._physics = None

    # ---- the executor's thread: stores requests for the physics thread ---------------------------

    def _on_safety(self, message: SafetyState) -> None:
        ready_ns = conversions.stamp_ns(message.ready_since) if message.state == SafetyState.READY else 0
        self._ready_ns = ready_ns if ready_ns > self._reset_ns else 0  # else it is of the scene before the reset

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        names = list(self._scene.objects)
        response.objects = names
        if request.seed < 0 or (request.target and request.target not in names):
            negative = f"seed {request.seed} is negative"
            unknown = f"target '{request.target}' is not one of {', '.join(names)}"
            response.success, response.message = False, negative if request.seed < 0 else unknown
            return response
        reset = Reset(int(request.seed), str(request.target))
        self._requests.put(reset)
        done = reset.done.wait(timeout=10.0)
        response.success = done and not reset.error
        response.message = reset.error or (f"seed {reset.seed}" if done else "the simulator did not answer within 10 s")
        response.instruction = instruction_for(reset.target) if reset.target else ""
        return response

    # ---- the physics thread ----------------------------------------------------------------------

    def _run(self, started: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            self._create()
        except Exception as error:
            started.put(error)
            return
        started.put(None)
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                while not self._requests.empty():
                    self._reset(self._requests.get())
                if not self.active:
                    time.sleep(0.005)
                    due = time.monotonic()
                    continue
                self._advance()
                due += self._slice_ns / NS / self._factor
                late = time.monotonic() - due
                if late < 0:
                    time.sleep(-late)
                elif late > 0.05:  # cannot keep up: simulated time runs slower
                    due += late
        except Exception as error:
            # A publisher fails at the normal end, when its context is shut down; any other error ends the process.
            if not isinstance(error, RCLError) or (self.context.ok() and not self._stop.is_set()):
                self.fault, self.exit_code = f"the simulator stopped: {one_line(error)}", 1
                self.get_logger().error(self.fault)
                self.context.try_shutdown()
        finally:
            self._scene.close()

    def _create(self) -> None:
        parameters, camera = self.parameters, self.parameters.camera
        self._scene = self._driver.make_scene(
            CameraConfig(camera.width, camera.height, camera.position, camera.look_at, camera.field_of_view)
        )
        self._scorer = Scorer(self._scene)
        self._expert = ExpertSource(self._scene, lambda: self.parameters.expert)
        self._view = (camera.position, camera.look_at)
        self._factor = parameters.real_time_factor
        step_ns = round(self._scene.config.physics_step * NS)
        self._slice_ns = max(1, round(NS / parameters.clock_rate / step_ns)) * step_ns
        self._state_period = round(NS / parameters.state_rate)
        self._camera_period = round(NS / camera.rate)
        if not parameters.publish_clock:
            self._time_ns = time.time_ns()
        self._next_state = self._next_camera = self._time_ns
        self._picture()  # an OpenGL that does not work fails here and not in the first episode
        self._reset(Reset(parameters.seed, parameters.expert.target))

    def _reset(self, reset: Reset) -> None:
        try:
            self._scene.reset(reset.seed)
            self._scorer.reset()
            self._expert.begin(reset.target, reset.seed)
            self._driver.scene_reset()
            self._score, self._ready_ns, self._reset_ns = (), 0, self._time_ns
            self._next_state = self._next_camera = self._time_ns
            self._restarted_pub.publish(conversions.header(self._time_ns + self._slice_ns, self._scene.base_frame))
        except Exception as error:
            reset.error = one_line(error)
        reset.done.set()

    def _advance(self) -> None:
        """Advance the scene by one step: apply commands, simulate, publish state and images."""
        self._driver.apply(self._time_ns)
        self._scene.step(self._slice_ns / NS)
        self._time_ns = self._time_ns + self._slice_ns if self._clock_pub else max(time.time_ns(), self._time_ns + 1)
        now = self._time_ns
        if self._clock_pub:
            self._clock_pub.publish(Clock(clock=conversions.time_message(now)))
        if now >= self._next_state:
            self._next_state = max(self._next_state + self._state_period, now)
            self._publish_state(now)
        triggered = self.parameters.camera.on_ready and self._seen_ready_ns < self._ready_ns <= now
        if triggered or now >= self._next_camera:
            self._seen_ready_ns = max(self._seen_ready_ns, self._ready_ns)
            self._next_camera = now + self._camera_period
            self._publish_camera(now)

    def _publish_state(self, now: int) -> None:
        scene = self._scene
        self._driver.publish(now)
        self._scorer.update()
        lifted, disturbed = self._scorer.lifted, self._scorer.disturbed
        if (tuple(lifted.values()), disturbed) != (self._score, self._disturbed):
            self._score, self._disturbed = tuple(lifted.values()), disturbed
            self._score_pub.publish(action_messages.score_message(scene.seed, lifted, any(self._score), now, disturbed))

    def _publish_camera(self, now: int) -> None:
        picture, frame = self._picture(), self.parameters.camera.frame
        observation = conversions.time_message(now)
        # The expert's chunks go out first, so that a recorder has the label when it has the image.
        done = any(self._score)
        labels, commands = self._expert.chunks(now, observation, self._ready_ns, done)
        for publisher, chunks in ((self._label_pub, labels), (self._command_pub, commands)):
            if publisher is not None:
                for chunk in chunks:
                    publisher.publish(chunk)
        self._image_pub.publish(image_messages.image_message(picture, frame, now))
        if self._jpeg_pub.get_subscription_count():
            quality = self.parameters.camera.jpeg_quality
            self._jpeg_pub.publish(image_messages.jpeg_message(picture, frame, now, quality))
        height, width = picture.shape[:2]
        info = image_messages.camera_info_message(self._scene.camera_matrix(), width, height, frame, now)
        self._info_pub.publish(info)

    def _picture(self) -> np.ndarray:
        camera = self.parameters.camera
        view = (camera.position, camera.look_at)
        if view != self._view:
            self._scene.move_camera(np.array(view[0]), np.array(view[1]))
            self._view = view
        if camera.mode == "frozen" and self._frozen is not None:
            return self._frozen
        picture = self._scene.render()
        self._frozen = picture.copy() if camera.mode == "frozen" else None
        return np.zeros_like(picture) if camera.mode == "black" else picture


def main() -> None:
    """Entry point."""
    main_of(SimNode)


if __name__ == "__main__":
    main()
