"""A service small enough to test the stack with: it migrates one table, reads it, and says that it is ready."""

import asyncio
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import asyncpg

from shared.errors import Corruption

NAME = os.environ.get("FAKE_NAME", "metering")


async def _migrate() -> None:
    connection = await asyncpg.connect(os.environ["TOLLKEEPER_METERING_OWNER_URL"])
    await connection.execute("create table if not exists start (number serial)")
    await connection.execute("grant select, insert, update on start to tollkeeper_app")
    await connection.execute("grant usage on start_number_seq to tollkeeper_app")
    await connection.close()


async def _count_start() -> int:
    connection = await asyncpg.connect(os.environ["TOLLKEEPER_METERING_DATABASE_URL"])
    number = await connection.fetchval("insert into start default values returning number")
    await connection.close()
    return int(number)


class _Answer(BaseHTTPRequestHandler):
    starts = 0

    def do_GET(self) -> None:
        self.send_response(200 if self.path in {"/readyz", "/environment"} else 404)
        self.end_headers()
        ours = {name: value for name, value in os.environ.items() if name.startswith("TOLLKEEPER_")}
        self.wfile.write(json.dumps({"starts": self.starts, "environment": ours}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are no news."""


def main() -> None:
    if os.environ.get("FAKE_FAILS") == "newer" and sys.argv[1] == "migrate":
        raise Corruption("a newer version has used this database")
    if os.environ.get("FAKE_FAILS") == sys.argv[1]:
        sys.exit("the fake service was told to fail")
    if sys.argv[1] == "migrate":
        asyncio.run(_migrate())
        return
    _Answer.starts = asyncio.run(_count_start())
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["TOLLKEEPER_METERING_PORT"])), _Answer).serve_forever()


if __name__ == "__main__":
    main()
