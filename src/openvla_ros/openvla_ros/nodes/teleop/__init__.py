"""The teleoperation node: a person's device in, action chunks out."""
