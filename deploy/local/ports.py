"""TCP ports of the loopback interface: free ones, taken ones, and by whom."""

import itertools
import os
import socket
from collections.abc import Iterator

import psutil

from deploy.local.faults import StackError

LOOPBACK = "127.0.0.1"
# Below the ports that systems give to outgoing connections: one of those could take a port before its server does.
_FIRST, _END, _BLOCK = 20_000, 32_000, 200


def find_free_port() -> int:
    """A port that nobody listens on, and that no other process gets from here while this one lives.

    It comes again only after all others of the process's block. Raises StackError when they are all in use.
    """
    for port in itertools.islice(_own_ports, _BLOCK):
        if not is_taken(port):
            return port
    raise StackError(f"no port is free in a block of {_BLOCK} between {_FIRST} and {_END}: stop what listens there")


def _hold_block() -> Iterator[int]:
    """The ports, in turn and for ever, of a block that this process holds by binding its first one until it ends."""
    blocks = range(_FIRST, _END, _BLOCK)
    for attempt in range(len(blocks)):
        start = blocks[(os.getpid() + attempt) % len(blocks)]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as claim:
            try:
                claim.bind((LOOPBACK, start))
            except OSError:
                continue
            yield from itertools.cycle(range(start + 1, start + _BLOCK))


_own_ports = _hold_block()


def is_taken(port: int, host: str = LOOPBACK) -> bool:
    """Whether binding `port` would fail; SO_REUSEADDR as servers set it, so that a closed connection is no obstacle."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return True
    return False


def require_free(port: int, *, purpose: str, setting: str, host: str = LOOPBACK) -> None:
    """Raise StackError that names the port, who holds it, and the setting that changes it."""
    if is_taken(port, host):
        raise StackError(
            f"port {port} for {purpose} is in use{_holder(port)}. Stop what listens there, or choose another port: "
            f"set {setting}, for example {setting}={_suggest(port)}."
        )


def _suggest(port: int) -> int:
    candidates = range(port + 10_000 if port < 50_000 else port - 10_000, 65_000)
    return next((candidate for candidate in candidates if not is_taken(candidate)), find_free_port())


def _holder(port: int) -> str:
    """Say who listens, as "by <program> (process 123)" after a space, or nothing where the system is silent."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        return ""
    return ""
