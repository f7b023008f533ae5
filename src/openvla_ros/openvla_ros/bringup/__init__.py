"""Which processes make up a stack, how they are started, watched and ended, and on which ROS domain."""
