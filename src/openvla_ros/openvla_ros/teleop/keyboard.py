"""A keyboard in a terminal. A terminal reports no release, so a key counts as held until its repetition stops."""

from __future__ import annotations

import math

from openvla_ros.teleop.operator_input import MOTIONS, OperatorInput

# key -> (motion, direction). The left hand translates, the right hand rotates.
MOVES = {
    "w": ("x", 1), "s": ("x", -1), "a": ("y", 1), "d": ("y", -1), "r": ("z", 1), "f": ("z", -1),
    "u": ("roll", 1), "o": ("roll", -1), "i": ("pitch", 1), "k": ("pitch", -1), "j": ("yaw", 1), "l": ("yaw", -1),
}  # fmt: skip
SPEEDS = {"1": "slow", "2": "", "3": "fast"}
PRESSES = {
    " ": "gripper", "enter": "start", "y": "success", "n": "failure", "x": "discard", "escape": "e_stop",
}  # fmt: skip

# [s] a terminal repeats a held key after about half a second, which is no second command.
REPEAT_DELAY = 0.8

HELP = """\
  w/s  forward, back      u/o  roll        space  open or close gripper      enter  start an episode
  a/d  left, right        i/k  pitch       1 2 3  slow, normal, fast         y  n   end it: success, failure
  r/f  up, down           j/l  yaw         escape EMERGENCY STOP             x      discard it
                                           ctrl-c end
Hold a key to keep moving. A released key stops the arm within the hold time and one action."""


class Keyboard:
    """State of the keys; calls pass the time [s].

    Attributes:
        hold: How long a key counts as held after its last character [s].
        speed: '', 'slow' or 'fast'.
    """

    def __init__(self, hold: float) -> None:
        """Start with no key held."""
        self.hold = hold
        self.speed = ""
        self._until: dict[str, float] = {}
        self._commanded: dict[str, float] = {}

    def press(self, key: str, now: float) -> str:
        """Take a key.

        Args:
            key: A character, or a name such as 'enter' and 'escape'.
            now: Time [s].

        Returns:
            The command of the key; '' for motions, repetitions and other keys.
        """
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

    def input(self, now: float) -> OperatorInput:
        """The operator's input at `now` [s]: a held key is its own deadman, and the gripper's key counts as held."""
        twist = dict.fromkeys(MOTIONS, 0.0)
        held = [key for key, until in self._until.items() if now < until]
        for motion, direction in (MOVES[key] for key in held if key in MOVES):
            twist[motion] += direction
        return OperatorInput(tuple(twist.values()), bool(held), self.speed)
