"""Worker processes that judge answers and can be killed, their replacement, and the messages between both sides.

Workers are started with `subprocess`, not `multiprocessing`: they never re-import the user's `__main__`, need no
`if __name__ == "__main__"` guard, and inherit neither torch nor locks. Nothing on the parent's side uses signals or an
event loop, so a pool serves any thread and any coroutine.

A message is a length, then JSON: JSON, because a reply must not be able to run anything in the parent. Lone surrogates
and null bytes in a model's text survive it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import resource
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from sgpo.progress import tell_progress
from sgpo.verifier.kinds import UsageError, judge_completion

START_LIMIT = 60.0  # seconds of processor time until a worker is ready; importing sympy takes about one
STARTS = 3  # in a row that may fail before no more is tried: the system kills a process now and then, for memory
PATIENCE = 30  # times a limit by the clock, for a worker that sleeps: it uses no processor time
JOBS_PER_WORKER = 5000  # then a fresh process takes over: sympy's caches and fragmented memory go with the old one
MEMORY_LIMIT = 2 << 30  # bytes of address space; Python with sympy takes 0.3 GB of it
RECURSION_LIMIT = 3000  # the parser's grammar recurses some thirty calls per bracket
_LENGTH = struct.Struct("!Q")

Job = Mapping[str, Any]
WorkerReply = dict[str, Any]

logger = logging.getLogger("sgpo.verifier")

# What a new interpreter runs. It must be code in a string: `-m` would look for this package before the child's path is
# the parent's, on which the user's own functions are.
_BOOT = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import serve; serve(int(sys.argv[2]))"
)


class Worker:
    """One process, and this end of its socket. It serves one job at a time."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        # The user's own functions may lie in the working directory, which the path of the `sgpo` command lacks.
        path = list(dict.fromkeys([*(entry or os.getcwd() for entry in sys.path), os.getcwd()]))
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
        self.ready = False  # it has begun to serve
        self.knows_math = False  # it has imported sympy
        self.jobs = 0
        self.allow(START_LIMIT)

    def allow(self, limit: float) -> None:
        """Give the process so many seconds of processor time from now on."""
        self._last_second = processor_time(self.process.pid) + limit
        self._deadline = time.monotonic() + PATIENCE * limit
        self.socket.settimeout(PATIENCE * limit)

    def time_left(self) -> float:
        """Say for how long the process can be left alone: what is left of its limit, which it may use up by then."""
        used_up = self._last_second - processor_time(self.process.pid)
        return max(0.0, min(used_up, self._deadline - time.monotonic()))

    def send(self, job: Job, limit: float) -> None:
        """Hand over a job.

        Args:
            job: the message to the worker.
            limit: seconds of processor time that it may take.

        Raises:
            OSError: the worker is dead or does not read.
        """
        self.jobs += 1
        self.allow(limit if self.knows_math or job["kind"] != "math" else START_LIMIT)
        send_message(self.socket, job)

    def receive(self) -> WorkerReply | None:
        """Read the reply that is there; None where the worker has died."""
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
        timeout: seconds of processor time per job. By the clock a job may take `PATIENCE` times as long: no verdict
            depends on how busy the machine is.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self.workers = workers
        self.timeout = timeout
        self._failed_starts = 0  # in a row
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._failed_starts = 0
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # a place whose process is not started yet

    def run(self, jobs: Sequence[Job]) -> list[WorkerReply | None]:
        """Run jobs on the workers, each of which serves one at a time.

        Returns:
            The reply to each job, in the order of the jobs; None where its worker hung or died.

        Raises:
            ChildProcessError: workers cannot be started, several in a row.
        """
        if self._pid != os.getpid():
            self._open()  # after a fork the processes are the parent's
        replies: list[WorkerReply | None] = [None] * len(jobs)
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
                nearest = min(worker.time_left() for worker in busy)
                wait([worker.socket for worker in busy], timeout=max(0.01, nearest))
                for worker in list(busy):
                    if not self._attend(worker, busy, jobs, replies):
                        pending.appendleft(busy.pop(worker))
                tell_progress("judging", len(jobs) - len(pending) - len(busy), len(jobs))
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
            worker.process.kill()  # the end of its socket reads as a death below

    def _attend(
        self, worker: Worker, busy: dict[Worker, int], jobs: Sequence[Job], replies: list[WorkerReply | None]
    ) -> bool:
        """Take what `worker` has said; kill it where it is overdue; free its place where it is done.

        Returns:
            False where it died before it was ready: its job is still to be done.
        """
        heard = bool(wait([worker.socket], timeout=0))
        if not heard and worker.time_left() > 0:
            return True
        reply = worker.receive() if heard else None
        if not worker.ready and reply is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise ChildProcessError(
                    f"verifier workers could not be started, {STARTS} in a row; their own errors are on standard "
                    "error; free memory, or lower verifier_workers"
                )
            worker.kill()
            self._idle.put(None)
            return False
        if reply and "ready" in reply:
            self._begin(worker, reply, jobs[busy[worker]])
            return True
        replies[busy.pop(worker)] = reply
        if reply is None or worker.jobs >= JOBS_PER_WORKER:
            worker.kill()
            self._idle.put(None)
        else:
            self._idle.put(worker)
        return True

    def _begin(self, worker: Worker, reply: WorkerReply, job: Job) -> None:
        """Start the clock of a job: its worker has started, or has imported what the job needs."""
        self._failed_starts = 0
        worker.knows_math = reply["ready"] == "math"
        if worker.ready:
            worker.allow(self.timeout)
        else:
            worker.ready = True
            self._send(worker, job)

    def close(self) -> None:
        """Stop the processes that are idle. A later `run` starts new ones."""
        if self._pid != os.getpid():
            return
        # Take all before any place is put back: the queue gives what came last, and would give that place again.
        idle = [self._idle.get() for _ in range(self._idle.qsize())]
        for worker in idle:
            if worker is not None:
                worker.kill()
            self._idle.put(None)


def processor_time(pid: int) -> float:
    """Read how many seconds of processor time a process has used; 0 where there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in user mode, and in the kernel


# -- inside a worker process


def serve(descriptor: int) -> None:
    """Judge one answer after another under limits, until the parent is gone.

    Args:
        descriptor: the file descriptor of this end of the socket, inherited from the parent.
    """
    _die_with_parent()
    _limit_memory()
    logging.disable(logging.ERROR)  # math-verify warns about every answer that is no LaTeX
    sys.setrecursionlimit(RECURSION_LIMIT)
    knows_math = False
    with socket.socket(fileno=descriptor) as connection:
        send_message(connection, {"ready": "any"})
        while (job := receive_message(connection)) is not None:
            if job["kind"] == "math" and not knows_math:
                import sgpo.verifier.math.equivalence  # noqa: F401  (sympy, before the clock of the answer starts)

                knows_math = True
                send_message(connection, {"ready": "math"})
            reply = _reply(job)
            if reply is None:
                return  # out of memory: the process is not to be trusted with the next answer
            send_message(connection, reply)


def send_message(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message.

    Raises:
        OSError: the other side is gone or does not read in time (`TimeoutError`).
    """
    body = json.dumps(message).encode("ascii")
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive_message(connection: socket.socket) -> dict[str, Any] | None:
    """Wait for the next message.

    Returns:
        The message; None where the other side is gone.

    Raises:
        OSError: the connection is broken, or nothing came in time (`TimeoutError`).
    """
    head = _read(connection, _LENGTH.size)
    body = head and _read(connection, _LENGTH.unpack(head)[0])
    return json.loads(body) if body else None


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _reply(job: dict[str, Any]) -> dict[str, Any] | None:
    """The reply to a job: a verdict, the user's mistake (`usage`) or a crash (`error`); None where memory ran out."""
    try:
        verdict = judge_completion(**job)
    except MemoryError:
        return None
    except UsageError as error:
        return {"usage": str(error)}
    except Exception:
        return {"error": traceback.format_exc(limit=-5)}
    return {"verdict": verdict.kind, "extracted": verdict.extracted}


def _die_with_parent() -> None:
    """Let the kernel end this process when the parent's end of standard input is closed, however it closes.

    SIGIO's default action is to terminate; it needs no Python code to run, so it also reaches a worker that is stuck
    in one long C call. (PR_SET_PDEATHSIG is tied to the parent's *thread*, and kills too early.)
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
