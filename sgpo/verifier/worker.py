"""What runs inside a worker process: one job after another, under limits, until the parent is gone."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import socket
import sys
import traceback
from typing import Any

from sgpo.verifier.channel import receive, send
from sgpo.verifier.kinds import UsageError, judge

MEMORY_LIMIT = 2 << 30  # bytes of address space; Python with sympy takes 0.3 GB of it


def main() -> None:
    """Serve the socket whose number is the second argument of the command line."""
    _die_with_parent()
    _limit_memory()
    logging.disable(logging.ERROR)  # math-verify warns about every answer that is no LaTeX
    sys.setrecursionlimit(3000)  # the parser's grammar recurses some thirty calls per bracket
    import sgpo.verifier.math.equivalence  # noqa: F401  (sympy now, not while the clock of the first answer runs)

    with socket.socket(fileno=int(sys.argv[2])) as connection:
        send(connection, {"ready": True})
        while (job := receive(connection)) is not None:
            reply = _reply(job)
            if reply is None:
                return  # out of memory: the process is not to be trusted with the next answer
            send(connection, reply)


def _reply(job: dict[str, Any]) -> dict[str, Any] | None:
    try:
        verdict = judge(job["completion"], job["answer"], kind=job["kind"], strict=job["strict"])
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
