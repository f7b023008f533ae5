"""The policy node's parameters."""

from __future__ import annotations

from openvla_ros.nodes.parameters import Parameter as P

PARAMETERS = (
    P("checkpoint", "checkpoints/openvla-tiny-sim", "Checkpoint folder (Hugging Face layout), or a hub id; a relative "
      "folder is looked for here and in the repository"),
    P("unnorm_key", "", "Dataset whose statistics un-normalise the actions; '' = the only one there is"),
    P("precision", "fp32", "Number format of the weights", choices=("fp32", "bf16")),
    P("vocabulary", "actions", "Tokens the decoding may choose: all, or the action tokens (faster)",
      choices=("full", "actions")),
    P("runtime", "eager", "How the model is run", choices=("eager",)),
    P("device", "auto", "auto, cpu, cuda, cuda:1, …"),
    P("threads", 0, "CPU threads of the model; 0 = torch's choice", low=0, high=256),
    P("center_crop", False, "Centre-crop the image, for a policy trained with random crops"),
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
    P("stall_timeout", 20.0, "A run_instruction goal fails after so long without an executed action (wall clock)",
      "s", 0.5, 3600.0),
)  # fmt: skip
