"""Worker processes that can be killed, and their replacement.

Workers are started with `subprocess`, not `multiprocessing`: they never re-import the user's `__main__`, need no
`if __name__ == "__main__"` guard, and inherit neither torch nor locks. Nothing here uses signals or an event loop,
so a pool serves any thread and any coroutine.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from sgpo.verifier.worker import receive_message, send_message, serve

START_LIMIT = 60.0  # seconds until a new worker must be ready; it imports sympy, which takes about one
JOBS_PER_WORKER = 5000  # then a fresh process takes over: sympy's caches and fragmented memory go with the old one

Job = Mapping[str, Any]
Reply = dict[str, Any]

logger = logging.getLogger("sgpo.verifier")

# What a new interpreter runs. It must be code in a string: `-m` would look for this package before the child's path is
# the parent's, on which the user's own functions are. The import above names the module and the function.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {serve.__module__} import {serve.__name__}; {serve.__name__}(int(sys.argv[2]))"
)


class Worker:
    """One process, and this end of its socket. It serves one job at a time."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(path), str(theirs.fileno())],
                # Never written to: its end tells the worker, even one stuck in C code, that this process is gone.
                stdin=subprocess.PIPE,
                stdout=2,  # a user's function may print; standard output is the caller's
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for the parent
                env={**os.environ, "PYTHONHASHSEED": "0"},  # the same verdicts in every run
            )
        self.ready = False
        self.jobs = 0
        self.deadline = time.monotonic() + START_LIMIT

    def send(self, job: Job, timeout: float) -> None:
        """Hand over a job.

        Args:
            job: the message to the worker.
            timeout: seconds until the reply must be there.

        Raises:
            OSError: the worker is dead or does not read.
        """
        self.jobs += 1
        self.deadline = time.monotonic() + timeout
        self.socket.settimeout(timeout)
        send_message(self.socket, job)

    def receive(self) -> Reply | None:
        """Read the reply that is there; None where the worker has died."""
        self.socket.settimeout(max(0.1, self.deadline - time.monotonic()))
        try:
            return receive_message(self.socket)
        except OSError:
            return None

    def kill(self) -> None:
        """End the process and close this end of its socket."""
        self.process.kill()
        self.socket.close()
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()


class Pool:
    """Worker processes, started when first needed, replaced when they hang or die.

    Args:
        workers: how many processes at most.
        timeout: seconds per job.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self.workers = workers
        self.timeout = timeout
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # a place whose process is not started yet

    def run(self, jobs: Sequence[Job]) -> list[Reply | None]:
        """Run jobs on the workers, each of which serves one at a time.

        Returns:
            The reply to each job, in the order of the jobs; None where its worker hung or died.

        Raises:
            RuntimeError: a worker cannot be started.
        """
        if self._pid != os.getpid():
            self._open()  # after a fork the processes are the parent's
        replies: list[Reply | None] = [None] * len(jobs)
        pending = deque(range(len(jobs)))
        busy: dict[Worker, int] = {}
        try:
            while pending or busy:
                # Hand a job to every free worker; wait for one only where this call has none at work.
                while pending and (worker := self._lease(block=not busy)):
                    busy[worker] = pending.popleft()
                    if worker.ready:
                        self._send(worker, jobs[busy[worker]])
                # Sleep until a worker speaks or is overdue.
                nearest = min(worker.deadline for worker in busy)
                wait([worker.socket for worker in busy], timeout=max(0.0, nearest - time.monotonic()))
                for worker in list(busy):
                    self._attend(worker, busy, jobs, replies)
        finally:
            for worker in busy:  # some are left only after an exception: what they would still say belongs to nobody
                worker.kill()
                self._idle.put(None)
        return replies

    def _lease(self, *, block: bool) -> Worker | None:
        """A worker that is free, started now if need be; None where all are busy and `block` is False."""
        try:
            worker = self._idle.get(block=block)
        except queue.Empty:
            return None
        if worker is not None and worker.process.poll() is None:
            return worker
        if worker is not None:
            worker.kill()
        try:
            return Worker()
        except BaseException:
            self._idle.put(None)
            raise

    def _send(self, worker: Worker, job: Job) -> None:
        try:
            worker.send(job, self.timeout)
        except OSError:
            worker.kill()  # the end of its socket reads as a death below

    def _attend(
        self, worker: Worker, busy: dict[Worker, int], jobs: Sequence[Job], replies: list[Reply | None]
    ) -> None:
        """Take what `worker` has said; kill it where it is overdue; free its place where it is done."""
        heard = bool(wait([worker.socket], timeout=0))
        if not heard and time.monotonic() < worker.deadline:
            return
        reply = worker.receive() if heard else None
        if not worker.ready:
            if reply is None:
                raise RuntimeError("a verifier worker could not be started; its own error is on standard error")
            worker.ready = True
            self._send(worker, jobs[busy[worker]])
            return
        replies[busy.pop(worker)] = reply
        if reply is None or worker.jobs >= JOBS_PER_WORKER:
            worker.kill()
            self._idle.put(None)
        else:
            self._idle.put(worker)

    def close(self) -> None:
        """Stop the processes that are idle. A later `run` starts new ones."""
        if self._pid != os.getpid():
            return
        for _ in range(self._idle.qsize()):
            worker = self._idle.get()
            if worker is not None:
                worker.kill()
            self._idle.put(None)
