"""LeRobot datasets (v2.1 and v3.0), read and written without the lerobot package. May import rlds."""
