"""A few of the drawn stories, on two processes of every service; `make stories` plays hundreds."""

import pytest

from tests.standins.town import START_US
from tests.story.__main__ import play
from tests.story.drawing import draw_story
from tests.support.databases import Databases
from tests.support.standalone import Servers

# Seeds that failed once stay here.
SEEDS = (1,)


def test_a_seed_draws_one_story_and_all_troubles_are_drawn() -> None:
    assert draw_story(7, START_US) == draw_story(7, START_US)
    stories = [draw_story(seed, START_US) for seed in range(40)]
    drawn = {trouble.kind for story in stories for step in story.steps for trouble in step.troubles}
    assert {"pause", "kill", "cut", "garbage", "aborted", "repeat", "back up", "restore", "consent"} <= drawn
    events = [event for story in stories for step in story.steps for event in step.events]
    assert any("replaces" in event["data"] for event in events)


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_story_ends_well(seed: int, databases: Databases, kafka_bootstrap: str) -> None:
    play(Servers(databases, kafka_bootstrap), seed)
