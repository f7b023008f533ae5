"""The physics simulator: arms at a table with cubes, the scripted expert and the scorer.

Pure: MuJoCo and numpy, no ROS. May import `robots.arms` and `robots.kinematics`, the geometry of the real arms.
"""
