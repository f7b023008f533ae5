"""What every transport serves: a policy that is asked with parsed requests, and the description of what it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from openvla_policy import __version__
from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation
from openvla_policy.revision import git_revision
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.batcher import Batcher, Job
from openvla_policy.serving.json_codec import ActRequest
from openvla_policy.serving.limits import Limits, Refused
from openvla_policy.serving.metrics import Metrics
from openvla_policy.serving.request_check import RequestCheck

log = logging.getLogger("openvla.serve")


class PolicyService:
    """A policy, its request queue and its metrics, independent of the transport."""

    def __init__(
        self, policy: LocalPolicy, limits: Limits | None = None, about: Mapping[str, object] | None = None
    ) -> None:
        """Start the thread that computes.

        Args:
            policy: The policy to serve; only this service may call it from now on.
            limits: What clients may request.
            about: Further entries of the metadata, which the policy itself does not have.
        """
        self.policy, self.limits = policy, limits or Limits()
        self.metrics = Metrics()
        self._batcher = Batcher(policy, self.limits, self.metrics)
        self._check = RequestCheck(policy)
        self._about = dict(about or {})

    def close(self) -> None:
        """Stop the policy's thread; requests that still wait are refused."""
        self._batcher.close()

    async def ask(self, request: ActRequest, stream: str, received: float, budget: float | None = None) -> ActionChunk:
        """Answer one parsed request.

        Args:
            request: The request.
            stream: Names the connection; `draft` guesses an answer from the one before it in the same stream.
            received: When the request arrived [s, time.perf_counter()].
            budget: How long after `received` an answer is still of use [s]. None: without limit.

        Returns:
            The action chunk.

        Raises:
            Refused: The request does not suit this policy, the server is busy, it is too late, or the policy failed.
        """
        try:
            self._check(request)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        observation = Observation(request.image, state=request.state, extra_images=request.extra_images)
        job = Job(observation, request.instruction, request.unnorm_key, stream, received, budget)
        try:
            return await asyncio.wrap_future(self._batcher.submit(job))
        except Refused:
            raise
        except Exception as error:
            # Details belong in the log, not in an answer to any client; the server continues, and the robot must hold.
            log.exception("the policy failed on a request of %s", stream)
            raise Refused(500, "the policy failed on this request; see the server's log") from error

    def metadata(self) -> dict[str, object]:
        """The description for /metadata and a WebSocket's first message; `image_size` is (height, width) [px]."""
        policy, inputs = self.policy, self._check.inputs
        return {
            "checkpoint": policy.checkpoint.path,
            "statistics": {key: entry.hash for key, entry in policy.checkpoint.statistics.items()},
            "unnorm_key": policy.unnorm_key,
            "image_size": list(policy.preparation.size),
            "extra_images": list(inputs.cameras),
            "state": inputs.state,
            "chunk": inputs.chunk,
            "center_crop": policy.preparation.crop_area is not None,
            "prompt_style": policy.prompt_style,
            "precision": str(policy.dtype).removeprefix("torch."),
            "device": str(policy.device),
            "period": policy.period,
            "frame": policy.frame,
            "memory": policy.memory.to_dict() if hasattr(policy, "memory") else {},
            "limits": asdict(self.limits),
            "version": __version__,
            "revision": revision(),
            **self._about,
        }


@lru_cache(maxsize=1)
def revision() -> str:
    """The git revision of this code, or '' outside a working copy."""
    found = git_revision(Path(__file__).parent)
    return found["commit"] if found else ""
