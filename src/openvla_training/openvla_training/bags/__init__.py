"""rosbag2 recordings to RLDS, and back, without a ROS installation. May import rlds and rotations.

`reading` splits a bag into recordings, `actions` makes steps of a recording, `convert_bag` encodes them; `convert_all`
and `beam` convert many bags.
"""
