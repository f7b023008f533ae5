"""From action chunk to targets: the motion core. Pure: no ROS. May import safety and geometry."""
