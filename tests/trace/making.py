"""A generated trace of the shape of a cluster's: the project needs no downloaded one to test itself."""

import csv
import random
from pathlib import Path

HEADER = ("name", "cpu_milli", "memory_mib", "num_gpu", "creation_time", "deletion_time", "scheduled_time")


def write_trace(path: Path, seed: int, *, rows: int, seconds: int) -> None:
    """Pods over `seconds`: some wait, some never run, some have no GPU, some live for less than a slot or for ever."""
    draw = random.Random(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        for number in range(rows):
            created = draw.randrange(seconds)
            # Crowds come at one instant, as when a cluster's jobs are submitted by a script.
            created -= created % 600 if draw.random() < 0.3 else 0
            lasts = draw.choice([0, 1, 59, 60, 61, draw.randrange(7200), seconds])
            deleted = min(created + lasts, seconds)
            waits = draw.choice([0, 0, 0, 7, 60, 500])
            scheduled = created + waits if created + waits <= deleted and draw.random() < 0.9 else ""
            memory_mib = draw.choice([0, 1, 1024, 1025, 16_384, 262_144])
            gpus = draw.choice([0, 1, 1, 1, 2, 8])
            writer.writerow((f"pod-{number:04}", 1000, memory_mib, gpus, created, deleted, scheduled))
