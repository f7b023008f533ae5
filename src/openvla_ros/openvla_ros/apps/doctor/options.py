"""The options of `openvla-doctor`: what to examine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Options of openvla-doctor."""

    robot: str = "sim"
    """Robot whose YAML files are read: franka, franka_sim, generic, sim, widowx or widowx_sim."""
    camera: str = ""
    """A file of config/cameras, or a path, as for the launch file."""
    config: str = ""
    """Your settings, as for the launch file."""
    namespace: str = ""
    """Namespace of the stack's topics and nodes."""
    checkpoint: str = ""
    """Checkpoint folder to examine instead of the stack's."""
    server: str = ""
    """URL of a policy server to examine instead of the stack's."""
    server_token_file: str = ""
    """File with that policy server's bearer token."""
    unnorm_key: str = ""
    """Dataset whose statistics to look for, instead of the stack's."""
    no_policy: bool = False
    """The stack has no policy (teleoperation)."""
    policy: bool = False
    """Measure the policy's rate: loaded here, or at its server."""
    listen: float = 3.0
    """How long topics are measured [s]."""
    wait: float = 8.0
    """How long nodes and the camera may take to appear [s]."""
    json: bool = False
    """Print the rows as JSON."""

    def check(self) -> None:
        """Raise ValueError when options are out of range or exclude each other."""
        if self.listen <= 0 or self.wait < 0:
            raise ValueError(f"--listen {self.listen:g} must be more than 0 s, --wait {self.wait:g} 0 s or more")
        if self.checkpoint and self.server:
            raise ValueError("--checkpoint and --server exclude each other: give one")
