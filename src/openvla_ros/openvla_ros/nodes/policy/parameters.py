"""The policy node's parameters."""

from __future__ import annotations

from openvla_policy.contract.gripper import OPTIONS as GRIPPER_OPTIONS
from openvla_ros.parameters import Parameter as P

# As in openvla_policy.runtime, which is not imported: it takes seconds. A test compares.
PRECISIONS = ("fp32", "bf16", "int8", "int4", "int8-torchao", "int4-torchao", "fp8")
RUNTIMES = ("eager", "static", "draft")

PARAMETERS = (
    P("policy.backend", "local", "local: the model runs in this process; remote: at the openvla-serve of server.url",
      choices=("local", "remote")),
    P("checkpoint", "checkpoints/openvla-tiny-sim", "Checkpoint folder (Hugging Face layout), or a hub id; a relative "
      "folder is looked for here and in the repository"),
    P("unnorm_key", "", "Dataset whose statistics un-normalise the actions; '' = the only one there is"),
    P("precision", "fp32", "Number format of the weights", choices=PRECISIONS),
    P("vocabulary", "actions", "Tokens the decoding may choose: all, or the action tokens (faster)",
      choices=("full", "actions")),
    P("runtime", "eager", "How the model is run; the tokens are the same", choices=RUNTIMES),
    P("device", "auto", "auto, cpu, cuda, cuda:1, …"),
    P("threads", 0, "CPU threads of the model; 0 = torch's choice", low=0, high=256),
    P("center_crop", False, "Centre-crop the image, for a policy trained with random crops"),
    P("idle", "keep", "requery: where an action moves nothing, take the second most likely tokens",
      choices=("keep", "requery")),
    P("gripper", "auto", "What the policy's seventh number means; auto: by the name of the statistics",
      choices=GRIPPER_OPTIONS),
    P("server.url", "ws://127.0.0.1:8000", "Of the policy server: ws:// or wss:// streams; http:// or https:// asks "
      "as the reference's clients do"),
    P("server.token_file", "", "File with the server's bearer token; '' = the server asks for none"),
    P("server.ca_file", "", "PEM file with the authority that signed the server's certificate; '' = the system's"),
    P("server.timeout", 2.0, "An answer that takes longer is thrown away, and the robot holds", "s", 0.01, 60.0),
    P("server.retry", 1.0, "Pause before a server that failed is asked again", "s", 0.0, 60.0),
    P("server.jpeg_quality", 0, "Send images as JPEG of this quality (ws:// only): a tenth of the bytes, and other "
      "pixels; 0 = as they are", low=0, high=100),
    P("warm_up", True, "Predict once while configuring, so that the first real action is not slow"),
    P("frame", "panda_link0", "Frame the actions are expressed in: that of the statistics"),
    P("period", 0.2, "Time between two actions in the data of the statistics", "s", 0.005, 10.0),
    P("control_mode", "blocking", "blocking: predict when the bridge is READY; streaming: predict at `rate`",
      choices=("blocking", "streaming")),
    P("rate", 5.0, "Predictions a second in streaming control, when the model is fast enough", "Hz", 0.1, 200.0),
    P("instruction", "", "Instruction to begin with; '' = wait for one"),
    P("image.topic", "camera/image_raw", "Topic of the raw images; the compressed ones are on its /compressed"),
    P("image.transport", "raw", "Which of the two to take", choices=("raw", "compressed")),
    P("image.reliability", "auto", "auto: reliable if all publishers are", choices=("auto", "reliable", "best_effort")),
    P("image.timeout", 10.0, "How long configure waits for the camera's publisher", "s", 0.0, 600.0),
    P("image.max_age", 2.0, "Older images are not looked at", "s", 0.01, 600.0),
    P("image.max_still", 0.0, "A picture that stays the same to the last bit for longer is a frozen camera's, whatever "
      "its stamp says; 0 = it may (a simulator has no noise)", "s", 0.0, 600.0),
    P("stall_timeout", 20.0, "A run_instruction goal fails after so long without an executed action (wall clock)",
      "s", 0.5, 3600.0),
)  # fmt: skip
