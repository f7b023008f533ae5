"""What a robot understands: one adapter per kind of interface, which turns targets into commands described as data.

`adapter` declares the protocol; `sim`, `generic`, `franka` and `widowx` implement it, with `grippers`, `servo` (MoveIt
Servo) and `kinematics` over the tables of `arms`; `factory` makes an adapter from the `parameters`. Pure: no ROS. May
import `openvla_ros.safety` and `openvla_ros.geometry`; knows nothing of `openvla_ros.control`.
"""

# Choices of the bridge's parameter `robot`; `factory` makes them. (Names instead of classes, so that a module that
# only needs a name does not load the kinematics of every arm.)
ADAPTERS = ("sim", "franka", "widowx", "generic")
