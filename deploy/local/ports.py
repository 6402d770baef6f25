"""TCP ports of the loopback interface: free ones, taken ones, and by whom."""

import socket

import psutil

from deploy.local.faults import StackError

LOOPBACK = "127.0.0.1"


def find_free_port() -> int:
    """A port that nobody listens on at the moment; it stays free only until somebody takes it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


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
