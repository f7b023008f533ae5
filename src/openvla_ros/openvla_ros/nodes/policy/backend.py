"""Backends of the policy node: a checkpoint in this process, or a policy server (`policy.backend`).

Both are checked when they are created, which is quick, and loaded later, which takes seconds. No ROS; torch is imported
only for a local policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.paths import resolve
from openvla_ros.safety.frozen_camera import FrozenCameraGuard

# Parameters that `load_policy` has under the same name.
PASSED_ON = ("precision", "vocabulary", "runtime", "center_crop", "idle", "gripper", "frame", "period")


class Backend(Protocol):
    """What the node knows of a policy besides its predictions.

    Attributes:
        name: Name for policy/status.
        checkpoint: Folder or URL of the checkpoint.
        statistics: Name of the statistics in use.
    """

    name: str
    checkpoint: str
    statistics: str

    def load(self) -> Any:
        """The policy, ready to predict; raises with a one-line message."""
        ...

    def close(self) -> None:
        """Free what creating and loading acquired."""
        ...


def make_backend(parameters: PolicyParameters) -> Backend:
    """The backend that `policy.backend` names, checked as far as that is quick; raises with a one-line message."""
    return RemoteBackend(parameters) if parameters.policy.backend == "remote" else LocalBackend(parameters)


class LocalBackend:
    """A checkpoint loaded into this process."""

    def __init__(self, parameters: PolicyParameters) -> None:
        """Find the checkpoint.

        Args:
            parameters: Parameters of the node.

        Raises:
            FileNotFoundError: The checkpoint is a path and does not exist.
        """
        self._parameters, self.name, self.statistics = parameters, "local", ""
        given = parameters.checkpoint
        folder = resolve(given)
        if not folder.is_dir() and given.startswith((".", "/", "~", "checkpoints")):
            raise FileNotFoundError(f"checkpoint folder '{given}' does not exist (looked for {folder.absolute()})")
        self.checkpoint = str(folder)

    def load(self) -> Any:
        """The local policy. Imports torch only now, so that a wrong parameter is found without waiting for it."""
        import torch

        from openvla_policy.runtime.load import load_policy

        parameters = self._parameters
        if parameters.threads:
            torch.set_num_threads(parameters.threads)
        policy = load_policy(
            self.checkpoint,
            unnorm_key=parameters.unnorm_key or None,
            device=None if parameters.device == "auto" else parameters.device,
            **{name: getattr(parameters, name) for name in PASSED_ON},
        )
        self.statistics = policy.unnorm_key or ""
        _warm_up(policy, parameters)
        return FrozenCameraGuard(policy, parameters.image.max_still)

    def close(self) -> None:
        """Nothing to free: nothing outlives the policy."""


class RemoteBackend:
    """An openvla-serve on this or another machine: it has the model, this node has frame, period and safety."""

    def __init__(self, parameters: PolicyParameters) -> None:
        """Connect to the server and compare its metadata with the parameters.

        Args:
            parameters: Parameters of the node.

        Raises:
            ValueError: The server's actions do not fit the parameters.
        """
        self._parameters, self.name = parameters, f"remote {parameters.server.url}"
        self._policy = client(parameters)
        try:
            metadata = self._metadata()
            self.checkpoint = str(metadata.get("checkpoint", ""))
            self.statistics = self._policy.unnorm_key = self._statistics(metadata)
            if wrong := incompatibility(parameters, metadata):
                raise ValueError(wrong)
        except BaseException:
            self.close()
            raise

    def load(self) -> Any:
        """The client; asks the server, which has loaded its model already, for one action.

        Returns:
            The policy.

        Raises:
            ConnectionError: The server gives no action.
        """
        try:
            _warm_up(self._policy, self._parameters)
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionError(
                f"the policy server gives no action: {error}; see the server's log, or raise 'server.timeout'"
            ) from error
        return FrozenCameraGuard(self._policy, self._parameters.image.max_still)

    def close(self) -> None:
        """Close the connection."""
        self._policy.close()

    def _metadata(self) -> dict[str, Any]:
        try:
            return self._policy.metadata()
        except ConnectionError as error:
            raise ConnectionError(
                f"the policy server does not answer as it should: {error}; start it (openvla-serve CHECKPOINT --host … "
                "--port …), or set 'server.url' and 'server.token_file'"
            ) from error

    def _statistics(self, metadata: dict[str, Any]) -> str:
        """The statistics to request by name, so that a server restarted with others cannot mix them up."""
        has = sorted(metadata.get("statistics") or {})
        wanted = self._parameters.unnorm_key or metadata.get("unnorm_key") or (has[0] if len(has) == 1 else None)
        if wanted in has:
            return str(wanted)
        problem = f"'{wanted}' is unknown to" if wanted else "is not set, and there are several at"
        raise ValueError(
            f"unnorm_key {problem} the policy server {self._parameters.server.url}, which serves {self.checkpoint} "
            f"with: {', '.join(has) or 'no statistics'}; set 'unnorm_key' to one of them or serve another checkpoint"
        )


def client(parameters: PolicyParameters) -> Any:
    """The client of the policy server, which is a policy. It sends nothing yet; raises where a parameter is wrong."""
    from openvla_policy.serving import connect

    server = parameters.server
    return connect(
        server.url,
        unnorm_key=parameters.unnorm_key or None,
        token=_token(server.token_file),
        timeout=server.timeout,
        frame=parameters.frame,
        period=parameters.period,
        ca_file=server.ca_file or None,
        jpeg_quality=server.jpeg_quality or None,
    )


def incompatibility(parameters: PolicyParameters, metadata: dict[str, Any]) -> str:
    """Why a server's actions would be misinterpreted, and the remedy.

    Args:
        parameters: Parameters of the node.
        metadata: What the server says of its policy.

    Returns:
        One line; '' when the server fits.
    """
    where = f"the policy server {parameters.server.url} ({metadata.get('checkpoint', '')})"
    if metadata.get("extra_images") or metadata.get("state"):
        cameras = ", ".join(metadata.get("extra_images") or [])
        wants = [f"the cameras {cameras}"] if cameras else []
        wants += [f"{metadata['state']} numbers of state"] if metadata.get("state") else []
        return f"{where} reads {' and '.join(wants)} beside the image, which this node does not send"
    for name, unit, ours in (("frame", "", parameters.frame), ("period", " s", parameters.period)):
        theirs = metadata.get(name)
        if theirs and theirs != ours:  # '' and None: the server does not know
            return (
                f"{where} has actions of {name} {theirs}{unit}, parameter '{name}' says {ours}{unit}; "
                f"set it to the server's, or start the server with --{name} {ours}"
            )
    return ""


def _warm_up(policy: Any, parameters: PolicyParameters) -> None:
    """Predict once, so that the first real action is not slow and errors show at configure."""
    from openvla_policy.contract.observation import Observation

    if parameters.warm_up:
        policy.predict(Observation(image=np.zeros((224, 224, 3), np.uint8)), "wait")


def _token(file: str) -> str | None:
    if not file:
        return None
    try:
        token = Path(file).expanduser().read_text().strip()
    except OSError as error:
        raise ValueError(f"parameter 'server.token_file': cannot read {file}: {error.strerror}") from error
    if not token:
        raise ValueError(f"parameter 'server.token_file': {file} is empty")
    return token
