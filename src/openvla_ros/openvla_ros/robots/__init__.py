"""From action to motion: target-pose mathematics and one adapter a robot."""

# What the bridge's parameter `robot` may be; nodes.robot_parameters makes it. (Names, not classes: whoever only
# needs a pose from here is not to load the kinematics of every arm.)
ADAPTERS = ("sim", "franka", "widowx", "generic")
