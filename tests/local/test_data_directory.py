"""A half-written data directory is recognised; nothing that may hold data is ever moved or removed."""

from pathlib import Path

import pytest

from deploy.local.faults import StackError
from deploy.local.infrastructure.directory import COMPLETE, MAKING, DataDirectory


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "server", server="PostgreSQL", used_sign="used")


def _make(directory: DataDirectory) -> None:
    directory.data.mkdir(parents=True, exist_ok=True)
    (directory.data / "VERSION").write_text("18")


def _interrupt(directory: DataDirectory) -> None:
    def fail() -> None:
        _make(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        directory.prepare(fail, essential="VERSION")


def test_it_is_made_once(directory: DataDirectory) -> None:
    assert directory.prepare(lambda: _make(directory), essential="VERSION")
    assert directory.complete
    assert not directory.prepare(lambda: pytest.fail("made twice"), essential="VERSION")


def test_a_half_written_one_is_moved_aside_and_made_anew(directory: DataDirectory) -> None:
    _interrupt(directory)
    (directory.data / "half").touch()
    assert directory.prepare(lambda: _make(directory), essential="VERSION")
    assert not (directory.data / "half").exists()
    assert (directory.root / "half-written-1" / "half").exists()


def test_a_half_written_one_is_moved_aside_twice(directory: DataDirectory) -> None:
    _interrupt(directory)
    _interrupt(directory)
    directory.prepare(lambda: _make(directory), essential="VERSION")
    assert {path.name for path in directory.root.iterdir()} == {"data", COMPLETE, "half-written-1", "half-written-2"}


def test_one_that_a_server_has_used_is_never_moved(directory: DataDirectory) -> None:
    _interrupt(directory)
    (directory.data / "used").touch()
    with pytest.raises(StackError, match=r"has run on it, so it may hold data. It is left as it is.*COMPLETE"):
        directory.prepare(lambda: _make(directory), essential="VERSION")
    assert (directory.data / "VERSION").exists()
    assert (directory.root / MAKING).exists()


def test_one_of_unknown_origin_is_never_moved(directory: DataDirectory) -> None:
    _make(directory)
    with pytest.raises(StackError, match=r"no mark says.*left as it is.*TOLLKEEPER_HOME"):
        directory.prepare(lambda: _make(directory), essential="VERSION")
    assert (directory.data / "VERSION").read_text() == "18"


def test_data_that_vanished_is_no_empty_start(directory: DataDirectory) -> None:
    directory.prepare(lambda: _make(directory), essential="VERSION")
    (directory.data / "VERSION").unlink()
    with pytest.raises(StackError, match="VERSION is gone"):
        directory.prepare(lambda: _make(directory), essential="VERSION")


def test_one_that_was_made_elsewhere_is_not_taken_for_complete(directory: DataDirectory) -> None:
    with pytest.raises(StackError, match="VERSION is not there"):
        directory.prepare(lambda: None, essential="VERSION")
    assert not directory.complete
