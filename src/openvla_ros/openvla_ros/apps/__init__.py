"""Programs that a person starts: record, teleop, recover, doctor.

May import every folder of the package except evaluation and console.
"""
