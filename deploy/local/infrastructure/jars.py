"""Kafka's jars: copied once by Maven into a cache."""

import fcntl
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

from deploy.local.faults import StackError
from deploy.local.infrastructure.java import java_environment
from deploy.local.processes import run_apart
from deploy.local.space import require_space

POM = Path(__file__).parent.parent / "kafka" / "pom.xml"


def kafka_version() -> str:
    version = ET.parse(POM).findtext(".//{*}kafka.version")  # noqa: S314 - our own file
    if version is None:
        raise StackError(f"{POM} names no kafka.version")
    return version


def has_jars(cache: Path) -> bool:
    return _folder(cache).exists()


def _folder(cache: Path) -> Path:
    return cache / f"kafka-{kafka_version()}"


def provide_jars(cache: Path, java: Path | None = None) -> Path:
    """The folder with Kafka's jars, copied there now if it was not yet.

    Maven copies into a folder of another name, which is renamed when it is whole: an interrupted copy is never used.
    One process copies at a time (Maven's own repository does not bear two writers); the others wait for it.
    `java` is what Maven runs on, which alone would find the system's or none.
    """
    jars = _folder(cache)
    if jars.exists():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            f"Maven (mvn) was not found, and Kafka {kafka_version()} is not in {cache} yet. Install it once (Debian "
            "and Ubuntu: apt-get install maven); or start a Docker engine; or give the address of a Kafka of yours in "
            "TOLLKEEPER_KAFKA_BOOTSTRAP."
        )
    cache.mkdir(parents=True, exist_ok=True)
    require_space(cache)
    with (cache / f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.exists():
            partial = cache / f"{jars.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            _copy(maven, partial, java)
            partial.rename(jars)
    return jars


def _copy(maven: str, target: Path, java: Path | None) -> None:
    command = [
        *(maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
        *(f"-DoutputDirectory={target}", "-DincludeScope=runtime"),
    ]
    answer = run_apart(command, environment=java_environment(java))
    if answer.returncode != 0 or not any(target.glob("kafka_*.jar")):
        shutil.rmtree(target, ignore_errors=True)
        said = (answer.stdout + answer.stderr)[-2000:].strip()
        likely = "" if "JAVA_HOME" in said else " Is its repository reachable (network, proxy, ~/.m2/settings.xml)?"
        raise StackError(
            f"Maven could not copy Kafka {kafka_version()} (exit code {answer.returncode}).{likely} Maven says:\n{said}"
        )
