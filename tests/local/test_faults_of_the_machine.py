"""What is missing or in the way on a machine is told in words that say what to do."""

import json
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest

from deploy.local import space
from deploy.local.faults import StackError
from deploy.local.infrastructure import java as java_module
from deploy.local.infrastructure.jars import kafka_version, provide_jars
from deploy.local.infrastructure.java import find_java
from deploy.local.ports import LOOPBACK, find_free_port, is_taken, require_free
from deploy.local.settings import LocalSettings, read_port


def test_port_in_use_names_the_port_the_holder_and_the_setting() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} for Kafka is in use.*set TOLLKEEPER_KAFKA_PORT") as fault:
            require_free(port, purpose="Kafka", setting="TOLLKEEPER_KAFKA_PORT")
        assert "(process " in str(fault.value)
        suggested = int(str(fault.value).rpartition("=")[2].rstrip("."))
        assert not is_taken(suggested)


def test_a_free_port_is_free() -> None:
    require_free(find_free_port(), purpose="Kafka", setting="TOLLKEEPER_KAFKA_PORT")


def test_processes_that_run_at_once_never_get_the_same_port() -> None:
    program = (
        "from deploy.local.ports import find_free_port as f; print([f() for _ in range(150)], flush=True); input()"
    )
    with ExitStack() as stack:
        others = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(3)
        ]
        ports = [port for other in others for port in json.loads(other.stdout.readline())]  # type: ignore[union-attr]  # piped above
        for other in others:
            other.communicate("\n")
    assert len(set(ports)) == 3 * 150


@pytest.mark.parametrize("text", ["0", "65536", "-1", "80a", "٨٠", "1.5"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="is no port"):
        read_port({"TOLLKEEPER_KAFKA_PORT": text}, "TOLLKEEPER_KAFKA_PORT", 1)


def test_empty_settings_count_as_unset() -> None:
    settings = LocalSettings.read(
        {"TOLLKEEPER_HOME": "", "TOLLKEEPER_KAFKA_BOOTSTRAP": "", "TOLLKEEPER_KAFKA_PORT": ""}
    )
    assert settings.home == Path(".tollkeeper").absolute()
    assert settings.kafka_bootstrap is None
    assert settings.kafka_port == 19192


def test_a_full_disk_is_refused_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=300 * 1024**2))
    with pytest.raises(StackError, match=r"only 300 MiB free.*1024 MiB.*TOLLKEEPER_HOME"):
        space.require_space(tmp_path / "not" / "yet")


def test_enough_space_passes(tmp_path: Path) -> None:
    space.require_space(tmp_path / "not" / "yet", free_bytes_min=1)


def _no_java(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(java_module, "_bundled_java", lambda: None)


def test_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_java(monkeypatch, tmp_path)
    with pytest.raises(StackError, match=r"no Java 17 or newer.*openjdk-17-jre-headless.*TOLLKEEPER_KAFKA_BOOTSTRAP"):
        find_java()


def test_an_old_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_program(tmp_path / "java", "echo 'openjdk version \"1.8.0_412\"' >&2")
    _no_java(monkeypatch, tmp_path)
    with pytest.raises(StackError, match=r"java is Java 8"):
        find_java()


def test_the_bundled_java_stands_in_for_an_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, bundled = tmp_path / "java", tmp_path / "bundled"
    _write_program(old, "echo 'openjdk version \"11.0.2\"' >&2")
    _write_program(bundled, "echo 'openjdk version \"25.0.2\"' >&2")
    _no_java(monkeypatch, tmp_path)
    monkeypatch.setattr(java_module, "_bundled_java", lambda: bundled)
    assert find_java() == bundled


def test_no_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"Maven \(mvn\) was not found.*apt-get install maven"):
        provide_jars(tmp_path / "cache")


def test_no_maven_is_no_matter_once_the_jars_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jars = tmp_path / f"kafka-{kafka_version()}"
    jars.mkdir()
    assert provide_jars(tmp_path) == jars


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    _write_program(programs / "mvn", "echo 'no route to the repository'; exit 1")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    with pytest.raises(StackError, match="no route to the repository"):
        provide_jars(cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_an_interrupted_copy_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    half = cache / f"kafka-{kafka_version()}.partial"
    half.mkdir(parents=True)
    (half / "half.jar").touch()
    script = (
        'for a; do case "$a" in -DoutputDirectory=*) d="${a#*=}";; esac; done; mkdir -p "$d"; : > "$d/kafka_2.13.jar"'
    )
    _write_program(programs / "mvn", script)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    jars = provide_jars(cache)
    assert [jar.name for jar in jars.iterdir()] == ["kafka_2.13.jar"]
    assert not half.exists()


def _write_program(path: Path, body: str) -> None:
    path.write_text(f"#!{shutil.which('sh')}\n{body}\n")
    path.chmod(0o755)
