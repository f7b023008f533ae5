"""The one thread that enters the policy. It takes what is waiting, up to a batch, in the order it came."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.limits import Late, Limits, Refused
from openvla_policy.serving.metrics import Metrics

log = logging.getLogger("openvla.serve")


@dataclass(eq=False)
class Job:
    """One request on its way. `received` [s] and all deadlines are of time.perf_counter()."""

    observation: Observation
    instruction: str
    unnorm_key: str | None
    stream: str  # whose it is: a connection
    received: float
    budget: float | None  # [s] from `received`; an answer after it is late
    queued: float = field(default_factory=time.perf_counter)
    result: Future[ActionChunk] = field(default_factory=Future)

    def late(self) -> Late | None:
        """Why nobody is to have this request's answer any more, if so."""
        took = time.perf_counter() - self.received
        return None if self.budget is None or took <= self.budget else Late(self.budget, took)


class Worker:
    """Computes jobs one batch after another. A job that cannot be computed spoils none of its neighbours."""

    def __init__(self, policy: LocalPolicy, limits: Limits, metrics: Metrics) -> None:
        self._policy, self._limits, self._metrics = policy, limits, metrics
        self._takes_streams = "streams" in inspect.signature(policy.predict_batch).parameters
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # One thread for good: a policy is not to be entered twice, and a client that goes away cannot cause it.
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[ActionChunk]:
        """Queue a job; cancelling its future drops it, unless it is being computed. Raises Refused when full."""
        with self._changed:
            if self._closed:
                raise Refused(503, "the server is shutting down")
            if len(self._waiting) >= self._limits.queue:
                raise Refused(503, f"{len(self._waiting)} requests are waiting already; ask again later")
            self._waiting.append(job)
            self._metrics.queue_length(len(self._waiting))
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Finish the batch that is being computed, refuse the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(10.0)
        for job in self._waiting:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(Refused(503, "the server is shutting down"))
        self._waiting.clear()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._start(batch)

    def _take(self) -> list[Job] | None:
        """What to compute next: jobs of as many streams as there are, one of each. None at the end."""
        limits = self._limits
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if limits.batch > 1 and limits.batch_wait > 0:
                self._changed.wait_for(lambda: len(self._waiting) >= limits.batch or self._closed, limits.batch_wait)
            if self._closed:
                return None
            taken: dict[str, Job] = {}
            left: list[Job] = []
            while self._waiting and len(taken) < limits.batch:
                job = self._waiting.popleft()
                # A stream's next image is looked at when its last one is answered: its guess comes from that.
                if job.stream in taken:
                    left.append(job)
                else:
                    taken[job.stream] = job
            self._waiting.extendleft(reversed(left))
            self._metrics.queue_length(len(self._waiting))
            return list(taken.values())

    def _start(self, jobs: list[Job]) -> None:
        now, batch = time.perf_counter(), []
        for job in jobs:
            if not job.result.set_running_or_notify_cancel():
                continue  # its client has gone
            if late := job.late():
                job.result.set_exception(late)
            elif now - job.received > self._limits.wait:
                sentence = f"the policy was not free within {self._limits.wait:g} s; ask again later"
                job.result.set_exception(Refused(503, sentence))
            else:
                batch.append(job)
        if batch:
            self._compute(batch)

    def _compute(self, batch: list[Job]) -> None:
        started = time.perf_counter()
        more = {"streams": [job.stream for job in batch]} if self._takes_streams else {}
        try:
            chunks = self._policy.predict_batch(
                [job.observation for job in batch],
                [job.instruction for job in batch],
                [job.unnorm_key for job in batch],
                **more,
            )
            if len(chunks) != len(batch):
                raise RuntimeError(f"the policy gave {len(chunks)} answers to {len(batch)} requests")
        except Exception as error:
            if len(batch) > 1:
                log.warning("a batch of %d failed (%s); computing its requests one by one", len(batch), error)
                for job in batch:
                    self._compute([job])
            else:
                batch[0].result.set_exception(error)
            return
        self._metrics.observe_batch(len(batch))
        for job, chunk in zip(batch, chunks, strict=True):
            timings = {"queue": started - job.queued, **chunk.timings, "total": time.perf_counter() - job.received}
            if late := job.late():
                job.result.set_exception(late)
            else:
                job.result.set_result(replace(chunk, timings=timings))
