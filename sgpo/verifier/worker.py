"""What runs inside a worker process, and the messages between it and its pool.

A message is a length, then JSON: JSON, because a reply must not be able to run anything in the parent. Lone surrogates
and null bytes in a model's text survive it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import socket
import struct
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from sgpo.verifier.kinds import UsageError, judge_completion

MEMORY_LIMIT = 2 << 30  # bytes of address space; Python with sympy takes 0.3 GB of it
RECURSION_LIMIT = 3000  # the parser's grammar recurses some thirty calls per bracket

_LENGTH = struct.Struct("!Q")


def serve(descriptor: int) -> None:
    """Judge one answer after another under limits, until the parent is gone.

    Args:
        descriptor: the file descriptor of this end of the socket, inherited from the parent.
    """
    _die_with_parent()
    _limit_memory()
    logging.disable(logging.ERROR)  # math-verify warns about every answer that is no LaTeX
    sys.setrecursionlimit(RECURSION_LIMIT)
    import sgpo.verifier.math.equivalence  # noqa: F401  (sympy now, not while the clock of the first answer runs)

    with socket.socket(fileno=descriptor) as connection:
        send_message(connection, {"ready": True})
        while (job := receive_message(connection)) is not None:
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
        verdict = judge_completion(job["completion"], job["answer"], kind=job["kind"], strict=job["strict"])
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
