"""`python -m tests.story --seeds 1-300`: stories one after another; one that fails is named and the next begins."""

import argparse
import sys
import time
from collections.abc import Iterator

from tests.fleet.making import REGIONS
from tests.standins.town import START_US, Town
from tests.story.drawing import SERVICES, draw_story
from tests.story.playing import Play
from tests.support.infrastructure import temporary_home
from tests.support.standalone import Servers, open_servers


def play(servers: Servers, seed: int) -> None:
    """One story in a town of its own."""
    with temporary_home() as home:
        town = Town(
            home, servers.databases, servers.bootstrap, f"story-{seed}.", names=SERVICES, processes=2, regions=REGIONS
        )
        with town:
            story = draw_story(seed, START_US)
            for book in story.books:
                town.cluster.put_book(book)
            Play(story, town).run()


def _seeds(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.story", description=__doc__)
    parser.add_argument("--seeds", default="1-20", help="such as 7, 1-300 or 3,9,20-40")
    failed: list[int] = []
    with open_servers() as servers:
        for seed in _seeds(parser.parse_args().seeds):
            began = time.monotonic()
            try:
                play(servers, seed)
            except AssertionError as error:
                failed.append(seed)
                print(f"seed {seed} FAILED after {time.monotonic() - began:.1f} s: {error}", flush=True)
            else:
                print(f"seed {seed} right in {time.monotonic() - began:.1f} s", flush=True)
    print(f"{len(failed)} stories failed: {failed}" if failed else "every story was right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
