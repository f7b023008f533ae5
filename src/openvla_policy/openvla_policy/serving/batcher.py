"""The one thread that calls the policy: it computes waiting requests in batches, in order of arrival."""

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
    """One request in the queue. Times are of time.perf_counter() [s].

    Attributes:
        observation: What the policy sees.
        instruction: The task in words.
        unnorm_key: Name of the statistics. None: the policy's default.
        stream: Names the connection.
        received: When the request arrived.
        budget: How long after `received` an answer is of use [s]. None: without limit.
        queued: When the job was made.
        result: The answer, or the exception.
    """

    observation: Observation
    instruction: str
    unnorm_key: str | None
    stream: str
    received: float
    budget: float | None
    queued: float = field(default_factory=time.perf_counter)
    result: Future[ActionChunk] = field(default_factory=Future)

    def late(self) -> Late | None:
        """The refusal of a job whose deadline has passed, else None."""
        took = time.perf_counter() - self.received
        return None if self.budget is None or took <= self.budget else Late(self.budget, took)


class Batcher:
    """Computes jobs batch by batch. A job that fails does not affect the others of its batch."""

    def __init__(self, policy: LocalPolicy, limits: Limits, metrics: Metrics) -> None:
        self._policy, self._limits, self._metrics = policy, limits, metrics
        self._takes_streams = "streams" in inspect.signature(policy.predict_batch).parameters
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # One thread for the server's life: a policy must not be called twice at once, also not when a client leaves.
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[ActionChunk]:
        """Queue a job.

        Args:
            job: The job.

        Returns:
            Its result. Cancelling it removes the job, unless it is being computed.

        Raises:
            Refused: The queue is full or the server shuts down.
        """
        with self._changed:
            if self._closed:
                raise Refused(503, "the server is shutting down")
            if len(self._waiting) >= self._limits.queue:
                raise Refused(503, f"{len(self._waiting)} requests are waiting already; ask again later")
            self._waiting.append(job)
            self._metrics.set_queue_length(len(self._waiting))
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Finish the batch that is being computed and refuse the waiting jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(10.0)
        for job in self._waiting:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(Refused(503, "the server is shutting down"))
        self._waiting.clear()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._start(batch)

    def _next_batch(self) -> list[Job] | None:
        """At most one job of each stream, oldest first. None when the server shuts down."""
        limits = self._limits
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if limits.batch > 1 and limits.batch_wait > 0:
                self._changed.wait_for(lambda: len(self._waiting) >= limits.batch or self._closed, limits.batch_wait)
            if self._closed:
                return None
            batch: dict[str, Job] = {}
            left: list[Job] = []
            while self._waiting and len(batch) < limits.batch:
                job = self._waiting.popleft()
                # A stream's next request waits for the answer to its last one, from which `draft` guesses.
                if job.stream in batch:
                    left.append(job)
                else:
                    batch[job.stream] = job
            self._waiting.extendleft(reversed(left))
            self._metrics.set_queue_length(len(self._waiting))
            return list(batch.values())

    def _start(self, jobs: list[Job]) -> None:
        """Compute the jobs that are still wanted."""
        now, batch = time.perf_counter(), []
        for job in jobs:
            if not job.result.set_running_or_notify_cancel():
                continue  # its client has disconnected
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
        options = {"streams": [job.stream for job in batch]} if self._takes_streams else {}
        try:
            chunks = self._policy.predict_batch(
                [job.observation for job in batch],
                [job.instruction for job in batch],
                [job.unnorm_key for job in batch],
                **options,
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
