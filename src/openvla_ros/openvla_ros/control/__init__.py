"""The motion core: from an action chunk to the targets of the robot's controller.

`bridge` takes in events (chunks, measurements, the operator's requests, ticks) and answers each with `commands`. It
combines the safety gate with the action schedule, the target stream (`trajectory`, `motion`) and the goals of the
gripper. `ready_handshake` is the counterpart of blocking control in every sender of actions. Everything here is pure:
no ROS, no I/O, and the time is an argument. May import `openvla_ros.safety` and `openvla_ros.geometry`; knows nothing
of `openvla_ros.robots`.
"""
