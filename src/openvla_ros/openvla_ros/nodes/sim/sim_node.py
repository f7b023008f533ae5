"""The simulated bench behind the topics of a real robot: Panda, three cubes, a camera, and the clock.

One thread owns the physics and the OpenGL context (both belong to the thread that made them): it steps the world in
small slices against the wall clock and publishes. The ROS side only leaves requests for it. When the machine cannot
keep up, simulated time runs slower; no slice is ever skipped.
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
from openvla_ros.nodes.common.qos import CLOCK, LATCHED, STATE, STREAM
from openvla_ros.nodes.sim.drivers import make_face
from openvla_ros.nodes.sim.expert_source import Demonstrator
from openvla_ros.nodes.sim.parameters import PARAMETERS
from openvla_ros.sim.scene import CameraConfig
from openvla_ros.sim.scoring import Scorer

NS = 1_000_000_000
START_TIMEOUT = 60.0  # [s] for the world to come up: the first compilation of the model reads the meshes


@dataclass
class Reset:
    """A request for the world's thread, and its answer."""

    seed: int
    target: str
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class SimNode(ManagedNode):
    """The simulator."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__("sim_node")
        self._world: threading.Thread | None = None
        self._stop = threading.Event()
        self._time_ns = 0  # simulated time; never goes back

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:  # noqa: D102
        if not self.value("publish_clock") and self.value("real_time_factor") != 1.0:
            raise ValueError(
                "real_time_factor other than 1.0 needs publish_clock true, and use_sim_time on all other nodes"
            )
        self._stop.clear()
        self._requests: queue.SimpleQueue[Reset] = queue.SimpleQueue()
        self._face = make_face(self)
        self._ready_ns = self._seen_ready_ns = self._reset_ns = 0
        self._frozen: np.ndarray | None = None
        self._score: tuple[bool, ...] = ()
        self._disturbed: tuple[str, ...] = ()
        self._clock_pub = self.publisher(Clock, "/clock", CLOCK) if self.value("publish_clock") else None
        self._image_pub = self.publisher(Image, "camera/image_raw", STREAM)
        self._jpeg_pub = self.publisher(CompressedImage, "camera/image_raw/compressed", STREAM)
        self._info_pub = self.publisher(CameraInfo, "camera/camera_info", STREAM)
        self._score_pub = self.publisher(SceneScore, "sim/score", LATCHED)
        self._restarted_pub = self.publisher(Header, "robot/restarted", STATE)
        self._label_pub = self.publisher(ActionChunk, "expert/action_chunk", STATE)
        acts = self.value("expert.role") == "act"
        self._act_pub = self.publisher(ActionChunk, "policy/action_chunk", STATE) if acts else None
        self._face.connect()
        self.subscribe(SafetyState, "safety/state", self._on_safety, STATE)
        self.serve(ResetScene, "sim/reset", self._on_reset)
        answer: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._world = threading.Thread(target=self._live, args=(answer,), name="world", daemon=True)
        self._world.start()
        try:
            error = answer.get(timeout=START_TIMEOUT)
        except queue.Empty:
            raise TimeoutError(f"the simulator did not come up within {START_TIMEOUT:g} s") from None
        if error is not None:
            raise RuntimeError(f"the simulator did not come up (MUJOCO_GL is 'osmesa' or 'egl'?): {one_line(error)}")

    def deactivate(self) -> None:  # noqa: D102
        self._face.forget()

    def release(self) -> None:  # noqa: D102
        self._stop.set()
        if self._world is not None and self._world is not threading.current_thread():
            self._world.join(timeout=5.0)
            self._world = None

    # ---- ROS side: leaves requests for the world -------------------------------------------------

    def _on_safety(self, message: SafetyState) -> None:
        ready_ns = conversions.stamp_ns(message.ready_since) if message.state == SafetyState.READY else 0
        self._ready_ns = ready_ns if ready_ns > self._reset_ns else 0  # else it speaks of the scene before the reset

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        names = list(self._scene.objects)
        response.objects = names
        if request.seed < 0 or (request.target and request.target not in names):
            wrong = (
                f"seed {request.seed} is negative"
                if request.seed < 0
                else (f"target '{request.target}' is not one of {', '.join(names)}")
            )
            response.success, response.message = False, wrong
            return response
        reset = Reset(int(request.seed), str(request.target))
        self._requests.put(reset)
        done = reset.done.wait(timeout=10.0)
        response.success = done and not reset.error
        response.message = reset.error or (f"seed {reset.seed}" if done else "the simulator did not answer within 10 s")
        response.instruction = instruction_for(reset.target) if reset.target else ""
        return response

    # ---- the world's thread ----------------------------------------------------------------------

    def _live(self, answer: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            self._create()
        except Exception as error:
            answer.put(error)
            return
        answer.put(None)
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
                elif late > 0.05:  # cannot keep up: let simulated time run slower instead of rushing after it
                    due += late
        except Exception as error:
            # A publisher whose context is going away is the normal end; all else ends the process, for all to see.
            if not isinstance(error, RCLError) or (self.context.ok() and not self._stop.is_set()):
                self.fault, self.exit_code = f"the simulator stopped: {one_line(error)}", 1
                self.get_logger().error(self.fault)
                self.context.try_shutdown()
        finally:
            self._scene.close()

    def _create(self) -> None:
        get = self.value
        camera = CameraConfig(
            width=get("camera.width"), height=get("camera.height"), position=tuple(get("camera.position")),
            look_at=tuple(get("camera.look_at")), field_of_view=get("camera.field_of_view"),
        )  # fmt: skip
        self._scene = self._face.make_scene(camera)
        self._scorer = Scorer(self._scene)
        self._demonstrator = Demonstrator(self._scene, self.value)
        self._view = (get("camera.position"), get("camera.look_at"))
        self._factor = get("real_time_factor")
        step_ns = round(self._scene.config.physics_step * NS)
        self._slice_ns = max(1, round(NS / get("clock_rate") / step_ns)) * step_ns
        self._state_period = round(NS / get("state_rate"))
        self._camera_period = round(NS / get("camera.rate"))
        if not get("publish_clock"):
            self._time_ns = time.time_ns()
        self._next_state = self._next_camera = self._time_ns
        self._picture()  # an OpenGL that does not work is found out now, not in the first episode
        self._reset(Reset(get("seed"), get("expert.target")))

    def _reset(self, reset: Reset) -> None:
        try:
            self._scene.reset(reset.seed)
            self._scorer.reset()
            self._demonstrator.begin(reset.target, reset.seed)
            self._face.begin()
            self._score, self._ready_ns, self._reset_ns = (), 0, self._time_ns
            self._next_state = self._next_camera = self._time_ns
            self._restarted_pub.publish(conversions.header(self._time_ns + self._slice_ns, self._scene.base_frame))
        except Exception as error:
            reset.error = one_line(error)
        reset.done.set()

    def _advance(self) -> None:
        """One slice: commands in, physics, state and pictures out."""
        self._face.obey(self._time_ns)
        self._scene.step(self._slice_ns / NS)
        self._time_ns = self._time_ns + self._slice_ns if self._clock_pub else max(time.time_ns(), self._time_ns + 1)
        now = self._time_ns
        if self._clock_pub:
            self._clock_pub.publish(Clock(clock=conversions.time_message(now)))
        if now >= self._next_state:
            self._next_state = max(self._next_state + self._state_period, now)
            self._publish_state(now)
        invited = self.value("camera.on_ready") and self._seen_ready_ns < self._ready_ns <= now
        if invited or now >= self._next_camera:
            self._seen_ready_ns = max(self._seen_ready_ns, self._ready_ns)
            self._next_camera = now + self._camera_period
            self._publish_camera(now)

    def _publish_state(self, now: int) -> None:
        scene = self._scene
        self._face.publish(now)
        self._scorer.update()
        lifted, disturbed = self._scorer.lifted, self._scorer.disturbed
        if (tuple(lifted.values()), disturbed) != (self._score, self._disturbed):
            self._score, self._disturbed = tuple(lifted.values()), disturbed
            self._score_pub.publish(action_messages.score_message(scene.seed, lifted, any(self._score), now, disturbed))

    def _publish_camera(self, now: int) -> None:
        picture, frame = self._picture(), self.value("camera.frame")
        observation = conversions.time_message(now)
        # What the expert says goes out first, so that a recorder has the label when it has the frame.
        done = any(self._score)
        for chunk in self._demonstrator.answer(now, observation, self._ready_ns, done):
            publisher = self._act_pub if chunk.acts else self._label_pub
            if publisher is not None:
                publisher.publish(chunk.message)
        self._image_pub.publish(image_messages.image_message(picture, frame, now))
        if self._jpeg_pub.get_subscription_count():
            self._jpeg_pub.publish(image_messages.jpeg_message(picture, frame, now, self.value("camera.jpeg_quality")))
        height, width = picture.shape[:2]
        info = image_messages.camera_info_message(self._scene.camera_matrix(), width, height, frame, now)
        self._info_pub.publish(info)

    def _picture(self) -> np.ndarray:
        view = (self.value("camera.position"), self.value("camera.look_at"))
        if view != self._view:
            self._scene.move_camera(np.array(view[0]), np.array(view[1]))
            self._view = view
        mode = self.value("camera.mode")
        if mode == "frozen" and self._frozen is not None:
            return self._frozen
        picture = self._scene.render()
        self._frozen = picture.copy() if mode == "frozen" else None
        return np.zeros_like(picture) if mode == "black" else picture


def main() -> None:
    """Entry point."""
    main_of(SimNode)


if __name__ == "__main__":
    main()
