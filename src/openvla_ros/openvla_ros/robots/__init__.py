"""From action to motion: target-pose mathematics and one adapter a robot."""

from openvla_ros.robots.sim import SimAdapter

ADAPTERS = {"sim": SimAdapter}
