"""Parameters of the policy node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from openvla_policy.contract.gripper import OPTIONS as GRIPPER_OPTIONS
from openvla_ros.parameters import ManagedNodeParameters, parameter

if TYPE_CHECKING:
    from openvla_policy.runtime.precision import Precision

# As in openvla_policy.runtime, whose import takes seconds; a test compares the two.
PRECISIONS = ("fp32", "bf16", "int8", "int4", "int8-torchao", "int4-torchao", "fp8")
RUNTIMES = ("eager", "static", "draft")


@dataclass(frozen=True)
class BackendParameters:
    """Where the policy runs: `policy.*`."""

    backend: str = parameter(
        "local",
        "local: the model runs in this process; remote: on the openvla-serve of server.url",
        choices=("local", "remote"),
    )


@dataclass(frozen=True)
class ServerParameters:
    """The policy server of the remote backend: `server.*`."""

    url: str = parameter(
        "ws://127.0.0.1:8000",
        "Address of the policy server: ws:// or wss:// streams; http:// or https:// is the reference's protocol",
    )
    token_file: str = parameter("", "File with the server's bearer token; '' = the server requires none")
    ca_file: str = parameter("", "PEM file of the authority that signed the server's certificate; '' = the system's")
    timeout: float = parameter(2.0, "An answer that takes longer is discarded, and the robot holds", "s", 0.01, 60.0)
    retry: float = parameter(1.0, "Pause before the next request to a server that failed", "s", 0.0, 60.0)
    jpeg_quality: int = parameter(
        0,
        "Send images as JPEG of this quality (ws:// only): a tenth of the bytes, and other pixels; 0 = uncompressed",
        low=0,
        high=100,
    )


@dataclass(frozen=True)
class ImageParameters:
    """The camera: `image.*`."""

    topic: str = parameter("camera/image_raw", "Topic of the raw images; the compressed ones are on its /compressed")
    transport: str = parameter("raw", "Which of the two to subscribe to", choices=("raw", "compressed"))
    reliability: str = parameter(
        "auto", "auto: reliable if all publishers are", choices=("auto", "reliable", "best_effort")
    )
    timeout: float = parameter(10.0, "Longest wait for the camera's publisher at configure", "s", 0.0, 600.0)
    max_age: float = parameter(2.0, "Older images are not used", "s", 0.01, 600.0)
    max_still: float = parameter(
        0.0,
        "An image whose pixels stay identical for longer is a frozen camera's, whatever its stamp says; 0 = no check "
        "(a simulator has no noise)",
        "s",
        0.0,
        600.0,
    )


@dataclass(frozen=True)
class PolicyParameters(ManagedNodeParameters):
    """Parameters of the policy node."""

    node: ClassVar[str] = "policy_node"
    moved: ClassVar[Mapping[str, str]] = {
        "control_mode": "set it on 'bridge_node'; the policy node follows the mode in safety/state"
    }

    policy: BackendParameters = field(default_factory=BackendParameters)
    checkpoint: str = parameter(
        "checkpoints/openvla-tiny-sim",
        "Checkpoint folder (Hugging Face layout), or a hub id; a relative folder is looked for in the working "
        "directory and in the repository",
    )
    unnorm_key: str = parameter("", "Dataset whose statistics un-normalise the actions; '' = the only one there is")
    precision: Precision = parameter("fp32", "Number format of the weights", choices=PRECISIONS)
    vocabulary: str = parameter(
        "actions", "Tokens that decoding may choose: all, or the action tokens (faster)", choices=("full", "actions")
    )
    runtime: str = parameter("eager", "How the model is run; the tokens are the same", choices=RUNTIMES)
    device: str = parameter("auto", "auto, cpu, cuda, cuda:1, …")
    threads: int = parameter(0, "CPU threads of the model; 0 = torch's choice", low=0, high=256)
    center_crop: bool = parameter(False, "Centre-crop the image, for a policy trained with random crops")
    idle: str = parameter(
        "keep",
        "requery: where an action moves nothing, take the second most likely tokens",
        choices=("keep", "requery"),
    )
    gripper: str = parameter(
        "auto", "Meaning of the policy's seventh number; auto: by the name of the statistics", choices=GRIPPER_OPTIONS
    )
    server: ServerParameters = field(default_factory=ServerParameters)
    warm_up: bool = parameter(True, "Predict once at configure, so that the first real action is not slow")
    frame: str = parameter("panda_link0", "Frame of the actions: that of the statistics")
    period: float = parameter(0.2, "Time between two actions in the data of the statistics", "s", 0.005, 10.0)
    rate: float = parameter(
        5.0, "Predictions a second in streaming control, when the model is fast enough", "Hz", 0.1, 200.0
    )
    instruction: str = parameter("", "Instruction to begin with; '' = wait for one")
    image: ImageParameters = field(default_factory=ImageParameters)
    stall_timeout: float = parameter(
        20.0,
        "A run_instruction goal fails after this time without an executed action (wall clock)",
        "s",
        0.5,
        3600.0,
    )
