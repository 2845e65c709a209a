"""Messages between the verifier and its workers: a length, then JSON. JSON, because a reply must not be able to run
anything in the parent; lone surrogates and null bytes in a model's text survive it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

_LENGTH = struct.Struct("!Q")


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Raises OSError (TimeoutError included) where the other side does not take it."""
    body = json.dumps(message).encode("ascii")
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side is gone."""
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
