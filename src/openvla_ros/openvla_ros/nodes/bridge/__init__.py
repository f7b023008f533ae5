"""The bridge node: safety gate and robot adapter between policy and arm."""
