"""Where the policy node's policy comes from: a checkpoint in this process, or a server (`policy.backend`).

Both are checked first, which is quick, and loaded last, which takes seconds. No ROS import, and torch only where the
policy is local.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openvla_ros.paths import resolve
from openvla_ros.safety.frozen_camera import FrozenCameraGuard

# Parameters that are LocalPolicy's by the same name.
PASSED_ON = ("precision", "vocabulary", "runtime", "center_crop", "idle", "gripper", "frame", "period")
Values = Callable[[str], Any]  # a parameter's value by name


class Backend(Protocol):
    """What the node knows of a policy beside predictions."""

    name: str  # for policy/status
    checkpoint: str
    statistics: str

    def load(self) -> Any:
        """The policy, ready to predict; raises with a one-line message."""
        ...

    def close(self) -> None:
        """Give back what checking and loading took."""
        ...


def make_backend(value: Values) -> Backend:
    """What `policy.backend` says, with what can be checked at once checked; raises with a one-line message."""
    return RemoteBackend(value) if value("policy.backend") == "remote" else LocalBackend(value)


class LocalBackend:
    """A checkpoint loaded into this process."""

    def __init__(self, value: Values) -> None:
        self._value, self.name, self.statistics = value, "local", ""
        given = str(value("checkpoint"))
        folder = resolve(given)
        if not folder.is_dir() and given.startswith((".", "/", "~", "checkpoints")):
            raise FileNotFoundError(f"checkpoint folder '{given}' does not exist (looked for {folder.absolute()})")
        self.checkpoint = str(folder)

    def load(self) -> Any:
        """A LocalPolicy. Torch is imported here, so that a wrong parameter is found without waiting for it."""
        import torch

        from openvla_policy.runtime.load import load_policy

        value = self._value
        if value("threads"):
            torch.set_num_threads(value("threads"))
        device = value("device")
        policy = load_policy(
            self.checkpoint, unnorm_key=value("unnorm_key") or None,
            device=None if device == "auto" else device, **{name: value(name) for name in PASSED_ON},
        )  # fmt: skip
        self.statistics = policy.unnorm_key or ""
        _warm_up(policy, value)
        return FrozenCameraGuard(policy, value("image.max_still"))

    def close(self) -> None:
        """Nothing outlives the policy."""


class RemoteBackend:
    """An openvla-serve on this or another machine: it has the model, this node keeps frame, period and safety."""

    def __init__(self, value: Values) -> None:
        url = self._url = str(value("server.url"))
        self._value, self.name = value, f"remote {url}"
        self._policy = client(value)
        try:
            about = self._about()
            self.checkpoint = str(about.get("checkpoint", ""))
            self.statistics = self._policy.unnorm_key = self._statistics(about)
            if wrong := misfit(value, about):
                raise ValueError(wrong)
        except BaseException:
            self.close()
            raise

    def load(self) -> Any:
        """The client; the server has loaded its model already, and is asked once for an action."""
        try:
            _warm_up(self._policy, self._value)
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionError(
                f"the policy server gives no action: {error}; see the server's log, or raise 'server.timeout'"
            ) from error
        return FrozenCameraGuard(self._policy, self._value("image.max_still"))

    def close(self) -> None:
        """Close the connection."""
        self._policy.close()

    def _about(self) -> dict[str, Any]:
        try:
            return self._policy.metadata()
        except ConnectionError as error:
            raise ConnectionError(
                f"the policy server does not answer as it should: {error}; start it (openvla-serve CHECKPOINT --host … "
                "--port …), or set 'server.url' and 'server.token_file'"
            ) from error

    def _statistics(self, about: dict[str, Any]) -> str:
        """The statistics to ask for by name, so that a server which is started anew with others cannot mix them up."""
        has = sorted(about.get("statistics") or {})
        wanted = self._value("unnorm_key") or about.get("unnorm_key") or (has[0] if len(has) == 1 else None)
        if wanted in has:
            return str(wanted)
        said = f"'{wanted}' is unknown to" if wanted else "is not set, and there are several at"
        raise ValueError(
            f"unnorm_key {said} the policy server {self._url}, which serves {self.checkpoint} with: "
            f"{', '.join(has) or 'no statistics'}; set 'unnorm_key' to one of them or serve another checkpoint"
        )


def client(value: Values) -> Any:
    """The client for the server of these parameters; nothing is sent yet. ValueError, OSError: a parameter is wrong."""
    from openvla_policy.serving import connect

    quality = int(value("server.jpeg_quality"))
    return connect(
        str(value("server.url")), unnorm_key=value("unnorm_key") or None,
        token=_token(str(value("server.token_file"))), timeout=value("server.timeout"), frame=value("frame"),
        period=value("period"), ca_file=value("server.ca_file") or None, jpeg_quality=quality or None,
    )  # fmt: skip


def misfit(value: Values, about: dict[str, Any]) -> str:
    """Why a server's actions would be taken for something that they are not, and the cure; '' when they would not."""
    where = f"the policy server {value('server.url')} ({about.get('checkpoint', '')})"
    if about.get("extra_images") or about.get("state"):
        cameras = ", ".join(about.get("extra_images") or [])
        wants = [f"the cameras {cameras}"] if cameras else []
        wants += [f"{about['state']} numbers of state"] if about.get("state") else []
        return f"{where} reads {' and '.join(wants)} beside the image, which this node does not send"
    for parameter, unit, mine in (("frame", "", value("frame")), ("period", " s", value("period"))):
        theirs = about.get(parameter)
        if theirs and theirs != mine:  # '' and None: the server was not told
            return (
                f"{where} has actions of {parameter} {theirs}{unit}, parameter '{parameter}' says {mine}{unit}; "
                f"set it to the server's, or start the server with --{parameter} {mine}"
            )
    return ""


def _warm_up(policy: Any, value: Values) -> None:
    """One prediction, so that the first real action is not slow, and what would fail fails now."""
    from openvla_policy.contract.observation import Observation

    if value("warm_up"):
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
