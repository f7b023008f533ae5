"""The safety gate: limits, watchdogs and the state machine, as pure functions and dataclasses."""
