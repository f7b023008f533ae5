"""Teleoperation devices: from what a hand does to actions. Plain numbers; nothing here knows a topic or a clock."""
