"""Kafka and PostgreSQL on a Docker engine: a real one where one has the images, else a program that plays it."""

import asyncio
import os
import subprocess
from pathlib import Path

import asyncpg
import pytest

from deploy.local.faults import StackError
from deploy.local.infrastructure import docker
from deploy.local.infrastructure.choose import Infrastructure
from deploy.local.infrastructure.docker import ComposeInfrastructure
from deploy.local.infrastructure.probes import run_async
from deploy.local.ports import find_free_port
from deploy.local.settings import LocalSettings
from tests.support.containers import KAFKA_IMAGE, POSTGRES_IMAGE
from tests.support.infrastructure import temporary_home


class PlayedDocker:
    """A `docker` whose compose notes what it is asked to do; `lines` of shell answer by `$*`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
        self.log = folder / "asked"
        program = folder / "docker"
        program.write_text(f'#!/bin/sh\necho "$*" >> {self.log}\ncase "$*" in\n{lines}\nesac\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    @property
    def verbs(self) -> list[str]:
        """What compose was asked to do."""
        asked = self.log.read_text().splitlines()
        return [line.rpartition("docker-compose.yml ")[2] for line in asked if "docker-compose.yml" in line]


def make_compose(home: Path) -> ComposeInfrastructure:
    return ComposeInfrastructure(home, postgres_port=find_free_port(), kafka_port=find_free_port())


def test_a_client_without_an_engine_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedDocker(tmp_path, monkeypatch, "version*) exit 1;;")
    assert not docker.engine_answers()


def test_a_container_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedDocker(tmp_path, monkeypatch, "ps*) echo 5ca1ab1e;;\nlogs*5ca1ab1e) echo 'no space left on device' >&2;;")
    with pytest.raises(StackError, match=r"container of postgres ended(?s:.*)no space left on device"):
        make_compose(tmp_path / "home").start(["postgres"])


def test_what_an_engine_cannot_run_is_stopped_and_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedDocker(tmp_path, monkeypatch, "*up*) echo 'no such image' >&2; exit 1;;")
    told: list[str] = []
    with temporary_home() as home:
        settings = LocalSettings.read(
            {
                "TOLLKEEPER_HOME": str(home),
                "TOLLKEEPER_KAFKA_BOOTSTRAP": "",
                "TOLLKEEPER_POSTGRES_PORT": str(find_free_port()),
                "TOLLKEEPER_KAFKA_PORT": str(find_free_port()),
            }
        )
        running = Infrastructure(settings).start(told.append)
        running.stop()
    assert (running.postgres_origin, running.kafka_origin) == ("embedded", "embedded")
    assert any("no such image" in line for line in told)
    assert played.verbs == ["up --detach postgres kafka", "stop"]


def _has_images() -> bool:
    command = ["docker", "image", "inspect", POSTGRES_IMAGE, KAFKA_IMAGE]
    return docker.engine_answers() and subprocess.run(command, capture_output=True, check=False).returncode == 0


async def _count_restarts(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("create table if not exists seen (at timestamptz)")
        await connection.execute("insert into seen values (clock_timestamp())")
        return int(await connection.fetchval("select count(*) from seen"))
    finally:
        await connection.close()


def test_a_real_engine_keeps_the_data_over_a_restart() -> None:
    if not _has_images():
        pytest.skip(f"there is no Docker engine here that has {POSTGRES_IMAGE} and {KAFKA_IMAGE}")
    with temporary_home() as home:
        compose = make_compose(home)
        try:
            for restarts in (1, 2):
                compose.start(["postgres", "kafka"])
                assert run_async(asyncio.wait_for(_count_restarts(compose.url), 10)) == restarts
                compose.stop()
        finally:
            compose._compose("down", "--volumes")
