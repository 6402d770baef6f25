"""The local stack as three actions: `up`, `down`, `status`. The command line `tollkeeper` calls them."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from deploy.local.environment import apply_demo, demo_exists
from deploy.local.faults import StackError
from deploy.local.launch import Launch
from deploy.local.made import require_as_made
from deploy.local.processes import signal_tree, stop_leftover, tail
from deploy.local.services import SERVICES, Service
from deploy.local.settings import LocalSettings, tell_path_fault
from deploy.local.state import Home, HomeLock, StackState, find_home
from deploy.local.status import find_twin, print_status, read_status
from deploy.local.supervisor import StopRequest
from deploy.local.terminal import steady_output

LAUNCHER = (sys.executable, "-m", "deploy.local.stack")
_DETACH_SECONDS = 300
_DOWN_SECONDS = 180
_LEFTOVER_SECONDS = 20
_POLL_SECONDS = 0.1


def up(
    *,
    detach: bool = False,
    demo: bool = True,
    test_clock: bool = False,
    clock_start: str = "now",
    change_settings: bool = False,
    environment: Mapping[str, str] | None = None,
    services: Sequence[Service] = SERVICES,
    console: Console | None = None,
    launcher: Sequence[str] = LAUNCHER,
) -> None:
    """Start the stack and stay with it until Ctrl-C or SIGTERM; with `detach`, return once it is ready.

    The demo runs where there is one and `demo` is not False. `test_clock` makes a new home a test, whose clock stands
    at `clock_start` (RFC 3339, or "now") until somebody moves it. `change_settings` means the changes of a home's
    settings that would be refused without it. Raises StackError with what to do.
    """
    console = console or Console()
    user = dict(os.environ if environment is None else environment)
    demo = demo and demo_exists() and not test_clock
    settings = LocalSettings.read(user, demo=demo)
    home = Home(settings.home)
    home.make(test_clock=test_clock, clock_start=clock_start)
    with_demo = demo and not home.is_test
    if with_demo:
        user = apply_demo(user)
    require_as_made(home.path, home.read_environment(), user, change_settings=change_settings, demo=with_demo)
    lock = HomeLock(settings.home)
    if not lock.acquire():
        state = home.read_state()
        who = f" (process {state.supervisor.pid})" if state else ""
        raise StackError(
            f"another stack runs on {settings.home} already{who}. Use it, stop it with `tollkeeper down`, or start a "
            "second one elsewhere: set TOLLKEEPER_HOME and the ports."
        )
    if detach:
        lock.release()
        require_twin_down(home, user, services)
        flags = [*([] if demo else ["--no-demo"]), *(["--change-settings"] if change_settings else [])]
        _launch_detached([*launcher, "up", *flags], user | {"TOLLKEEPER_HOME": str(home.path)}, home, console)
        return
    try:
        require_twin_down(home, user, services)
        _end_leftovers(home)
        stop_request = StopRequest()
        stop_request.listen()
        with steady_output(home.logs("stack")):
            Launch(settings, user, services, demo=with_demo, console=console, stop_request=stop_request).run()
    finally:
        lock.release()


def down(*, environment: Mapping[str, str] | None = None, console: Console | None = None) -> bool:
    """Stop the stack of this home, and what a killed supervisor left behind; whether anything ran."""
    console = console or Console()
    home = find_home(os.environ if environment is None else environment)
    state = home.read_state()
    if state is None:
        console.print(f"nothing runs on {home.path}", highlight=False, soft_wrap=True)
        return False
    if state.supervisor.alive:
        with console.status("stopping"):
            state.supervisor.signal(signal.SIGTERM)
            if not state.supervisor.wait(_DOWN_SECONDS):
                who = f"the stack (process {state.supervisor.pid})"
                raise StackError(f"{who} is not down after {_DOWN_SECONDS} s; see {home.path}/logs")
    else:
        _end_leftovers(home)
    console.print(f"stopped {home.path}", highlight=False, soft_wrap=True)
    return True


def status(
    *, as_json: bool = False, environment: Mapping[str, str] | None = None, console: Console | None = None
) -> bool:
    """Tell how the stack of this home is doing; whether all of it is ready."""
    console = console or Console()
    found = read_status(find_home(os.environ if environment is None else environment))
    if as_json:
        console.file.write(json.dumps(found.as_json(), indent=2) + "\n")
    else:
        print_status(found, console)
    return found.ready


def require_twin_down(home: Home, user: Mapping[str, str], services: Sequence[Service]) -> None:
    """Raise StackError if the demo's home, or the one beside it, has a stack on ports that are wanted here."""
    path = find_twin(home.path)
    state = None if path is None else Home(path).read_state()
    if state is None or not state.supervisor.alive:
        return
    wanted = {service.port(user) for service in services}
    if wanted & {service.port for service in state.services.values()}:
        raise StackError(
            f"a stack runs on {path} (process {state.supervisor.pid}) and has these ports. Stop it with "
            "`tollkeeper down`, or give this one other ports: set TOLLKEEPER_<SERVICE>_PORT, TOLLKEEPER_POSTGRES_PORT "
            "and TOLLKEEPER_KAFKA_PORT."
        )


def _launch_detached(command: Sequence[str], user: Mapping[str, str], home: Home, console: Console) -> None:
    """Start a supervisor that outlives this terminal, and return when its stack is ready."""
    log = home.logs("stack")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command, env=dict(user), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + _DETACH_SECONDS
    with console.status("starting"):
        while not _is_ready(home.read_state(), supervisor.pid):
            if supervisor.poll() is not None:
                raise StackError(f"the stack did not start:\n{tail(log, 30)}")
            if time.monotonic() > deadline:
                supervisor.send_signal(signal.SIGTERM)
                raise StackError(f"the stack was not ready after {_DETACH_SECONDS} s and is being stopped; see {log}")
            time.sleep(_POLL_SECONDS)
    console.print(tail(log, 30), highlight=False, markup=False)
    console.print("It runs in the background: `tollkeeper status` shows it, `tollkeeper down` stops it.")


def _is_ready(state: StackState | None, supervisor: int) -> bool:
    return state is not None and state.phase == "ready" and state.supervisor.pid == supervisor


def _end_leftovers(home: Home) -> None:
    """End what a killed supervisor left: services first, then its servers. Only the very same processes are touched."""
    state = home.read_state()
    if state is not None and state.supervisor.alive and state.supervisor.pid != os.getpid():
        return
    left = [] if state is None else [entry.identity for entry in state.services.values() if entry.identity]
    for identity in left:
        identity.signal(signal.SIGTERM)
    for identity in left:
        if not identity.wait(_LEFTOVER_SECONDS):
            signal_tree(identity.pid, signal.SIGKILL)
    stop_leftover(home.path / "kafka.process", signal.SIGTERM)
    stop_leftover(home.path / "postgres.process", signal.SIGINT)
    home.forget_state()


def main(
    arguments: Sequence[str] | None = None,
    services: Sequence[Service] = SERVICES,
    launcher: Sequence[str] = LAUNCHER,
) -> int:
    """`python -m deploy.local.stack`, which a detached stack runs as; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack")
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("up")
    starting.add_argument("--detach", action="store_true")
    starting.add_argument("--no-demo", action="store_true")
    starting.add_argument("--test-clock", action="store_true")
    starting.add_argument("--clock-start", default="now")
    starting.add_argument("--change-settings", action="store_true")
    actions.add_parser("down")
    actions.add_parser("status").add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.action == "up":
            up(
                detach=options.detach,
                demo=not options.no_demo,
                test_clock=options.test_clock,
                clock_start=options.clock_start,
                change_settings=options.change_settings,
                services=services,
                launcher=launcher,
            )
        elif options.action == "down":
            down()
        else:
            return 0 if status(as_json=options.json) else 1
    except StackError as fault:
        sys.stderr.write(f"tollkeeper: {fault}\n")
        return 1
    except OSError as error:
        if (told := tell_path_fault(error)) is None:
            raise
        sys.stderr.write(f"tollkeeper: {told}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
