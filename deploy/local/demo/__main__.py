"""`python -m deploy.local.demo`: plays the story on a stack that runs with the demo's settings."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.demo.platform import Platform
from deploy.local.demo.story import DemoError, Story
from deploy.local.terminal import steady_output
from shared.clock import SECOND_US, SystemClock
from shared.kafka import describe_topics, open_producer
from shared.topics import ACCOUNT_EVENTS, COMMANDS, ENFORCEMENT_EVENTS

ORPHAN_CHECK_SECONDS = 0.5
SUPERVISOR_PID = "TOLLKEEPER_SUPERVISOR_PID"
_HEARD = (COMMANDS, ACCOUNT_EVENTS, ENFORCEMENT_EVENTS)


async def _listen(consumer: AIOKafkaConsumer, platform: Platform, story: Story, prefix: str) -> None:
    async for record in consumer:
        event = orjson.loads(record.value)
        if record.topic == prefix + COMMANDS:
            await platform.obey(event)
        else:
            story.hear(event)


async def wait_for_orphanage(supervisor_pid: int) -> None:
    """Return when the supervisor that started this process is dead: nobody else would end the demo then.

    It says its own pid: asked only here, it may have died before.
    """
    while os.getppid() == supervisor_pid:
        await asyncio.sleep(ORPHAN_CHECK_SECONDS)


async def _play() -> None:
    bootstrap, prefix = os.environ["TOLLKEEPER_KAFKA_BOOTSTRAP"], os.environ.get("TOLLKEEPER_TOPIC_PREFIX", "")
    clock = SystemClock()
    run_name = f"{clock.now_us() // SECOND_US:x}"
    described = await describe_topics(bootstrap, [prefix + topic for topic in _HEARD])
    partitions = [TopicPartition(name, n) for name, topic in described.items() for n in range(topic.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, client_id="demo", enable_auto_commit=False)
    producer = await open_producer(bootstrap, "demo")
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        async with (
            httpx.AsyncClient(base_url=os.environ["TOLLKEEPER_METERING_URL"], timeout=10) as metering,
            httpx.AsyncClient(base_url=os.environ["TOLLKEEPER_BALANCE_URL"], timeout=10) as balance,
        ):
            platform = Platform(producer, balance, prefix, clock, run_name)
            story = Story(platform, metering, balance, clock, run_name)
            listening = asyncio.create_task(_listen(consumer, platform, story, prefix))
            orphaned = asyncio.create_task(wait_for_orphanage(int(os.environ[SUPERVISOR_PID])))
            playing = asyncio.create_task(story.play())
            try:
                await asyncio.wait({playing, orphaned}, return_when=asyncio.FIRST_COMPLETED)
                if not playing.done():
                    raise DemoError("the stack that it belongs to is gone")
                playing.result()
            finally:
                tasks = (playing, listening, orphaned)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await consumer.stop()
        await producer.stop()


def main() -> int:
    try:
        with steady_output(Path(os.environ["TOLLKEEPER_HOME"]) / "logs" / "demo.log"):
            asyncio.run(_play())
    except (DemoError, httpx.HTTPError) as error:
        print(f"the demo stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
