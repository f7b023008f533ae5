"""The recorder node: episodes to rosbag2 files."""
