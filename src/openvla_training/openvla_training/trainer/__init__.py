"""Training and fine-tuning of OpenVLA policies: the loop, strategies, resume states, export and command lines.

`config` holds the options in groups. `trainer` runs them: `start` loads the checkpoint and the data, `train_step` takes
an optimizer step, `state` saves what a run resumes from, `export` writes the policy. May import openx and rlds of this
package, and openvla_policy; train steps, states and export need torch, but neither TensorFlow Datasets nor pydantic.
"""
