"""A keyboard in a terminal: no key-up exists there, so a key counts as held until its repetition stays away."""

from __future__ import annotations

import math

from openvla_ros.teleop.operator_input import MOTIONS, Demand

# key -> (motion, direction). One hand moves, the other turns.
MOVES = {
    "w": ("x", 1), "s": ("x", -1), "a": ("y", 1), "d": ("y", -1), "r": ("z", 1), "f": ("z", -1),
    "u": ("roll", 1), "o": ("roll", -1), "i": ("pitch", 1), "k": ("pitch", -1), "j": ("yaw", 1), "l": ("yaw", -1),
}  # fmt: skip
SPEEDS = {"1": "slow", "2": "", "3": "fast"}
PRESSES = {
    " ": "gripper", "enter": "start", "y": "success", "n": "failure", "x": "discard", "escape": "e_stop",
}  # fmt: skip

# [s] a terminal repeats a held key after about half a second: that is no second command.
REPEAT_DELAY = 0.8

HELP = """\
  w/s  forward, back      u/o  roll        space  open or close the hand     enter  start an episode
  a/d  left, right        i/k  pitch       1 2 3  slow, normal, fast         y  n   end it: success, failure
  r/f  up, down           j/l  yaw         escape EMERGENCY STOP             x      discard it
                                           ctrl-c end
Hold a key to go on moving. A key that is let go stops the arm within the hold time and one action."""


class Keyboard:
    """The keys' state; every call is given the time [s]."""

    def __init__(self, hold: float) -> None:
        """``hold``: a key counts as down for so long after its last character [s]."""
        self.hold = hold
        self.speed = ""
        self._until: dict[str, float] = {}
        self._commanded: dict[str, float] = {}

    def press(self, key: str, now: float) -> str:
        """Take a character (or 'enter', 'escape'); the command it stands for, '' for motions and all else."""
        key = key.lower() if len(key) == 1 else key
        command = PRESSES.get(key, "")
        if key in SPEEDS:
            self.speed = SPEEDS[key]
        elif key in MOVES or command == "gripper":
            self._until[key] = now + self.hold
        repeated = now - self._commanded.get(key, -math.inf) < REPEAT_DELAY
        if command:
            self._commanded[key] = now
        return "" if repeated else command

    def demand(self, now: float) -> Demand:
        """What is asked for now: a held key is its own deadman, and the gripper's key holds for one action."""
        twist = dict.fromkeys(MOTIONS, 0.0)
        held = [key for key, until in self._until.items() if now < until]
        for motion, direction in (MOVES[key] for key in held if key in MOVES):
            twist[motion] += direction
        return Demand(tuple(twist.values()), bool(held), self.speed)
