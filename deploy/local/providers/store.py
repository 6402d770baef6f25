"""What a stand-in remembers, in one SQLite file of the home: a restart keeps what was paid."""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_CALLBACK = "id, about, payload, state, attempts, next_at_us, last"
_TABLES = """
create table if not exists document (
  number integer primary key autoincrement, kind text not null, id text not null, body text not null,
  unique (kind, id)
);
create table if not exists answer (key text primary key, request text not null, status integer not null,
  body text not null, at_us integer not null);
create table if not exists task (number integer primary key autoincrement, due_us integer not null,
  action text not null, subject text not null);
create table if not exists callback (
  id integer primary key autoincrement, about text not null, payload text not null, state text not null,
  attempts integer not null default 0, next_at_us integer not null, last text not null default ''
);
create table if not exists counter (name text primary key, value integer not null);
create table if not exists seed (seed text not null);
"""


@dataclass(frozen=True, slots=True)
class Callback:
    """One callback to deliver. `state` is waiting, held, lost, delivered or given-up; `last` says how it went."""

    id: int
    about: str
    payload: str
    state: str
    attempts: int
    next_at_us: int
    last: str


@dataclass(frozen=True, slots=True)
class Task:
    """Something that the provider does by itself at `due_us`."""

    number: int
    due_us: int
    action: str
    subject: str


class Store:
    """Documents by kind and id, answers by idempotency key, tasks, callbacks, counters."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.executescript(_TABLES)
        row = self._connection.execute("select seed from seed").fetchone()
        if row is None:
            row = (secrets.token_hex(16),)
            self._connection.execute("insert into seed values (?)", row)
        self._seed = str(row[0])

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; one inside another is part of it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def count(self, name: str) -> int:
        """The next number of `name`: 1, 2, 3 …"""
        row = self._connection.execute(
            "insert into counter values (?, 1) on conflict (name) do update set value = value + 1 returning value",
            (name,),
        ).fetchone()
        return int(row[0])

    def new_id(self, prefix: str) -> str:
        """An id as long and as hard to guess as the provider's."""
        digest = sha256(f"{self._seed}/{prefix}/{self.count(prefix)}".encode()).hexdigest()
        return f"{prefix}_{digest[:24]}"

    def put(self, kind: str, document_id: str, body: Document) -> None:
        self._connection.execute(
            "insert into document (kind, id, body) values (?, ?, ?) "
            "on conflict (kind, id) do update set body = excluded.body",
            (kind, document_id, json.dumps(body)),
        )

    def get(self, kind: str, document_id: str) -> Document | None:
        row = self._connection.execute(
            "select body from document where kind = ? and id = ?", (kind, document_id)
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def newest_first(self, kind: str) -> list[Document]:
        rows = self._connection.execute("select body from document where kind = ? order by number desc", (kind,))
        return [json.loads(row[0]) for row in rows]

    def remember(self, key: str, request: str, status: int, body: str, at_us: int) -> None:
        self._connection.execute(
            "insert or replace into answer values (?, ?, ?, ?, ?)", (key, request, status, body, at_us)
        )

    def recall(self, key: str, since_us: int) -> tuple[str, int, str] | None:
        """The request, status and body remembered under an idempotency key since an instant."""
        row: tuple[str, int, str] | None = self._connection.execute(
            "select request, status, body from answer where key = ? and at_us >= ?", (key, since_us)
        ).fetchone()
        return row

    def plan(self, due_us: int, action: str, subject: str) -> None:
        self._connection.execute(
            "insert into task (due_us, action, subject) values (?, ?, ?)", (due_us, action, subject)
        )

    def take_due(self, now_us: int) -> list[Task]:
        """The tasks that are due, taken away: call it in the transaction that does them."""
        rows = self._connection.execute("select * from task where due_us <= ? order by due_us, number", (now_us,))
        tasks = [Task(*row) for row in rows.fetchall()]
        self._connection.executemany("delete from task where number = ?", [(task.number,) for task in tasks])
        return tasks

    def add_callback(self, about: str, payload: str, state: str, next_at_us: int) -> int:
        cursor = self._connection.execute(
            "insert into callback (about, payload, state, next_at_us) values (?, ?, ?, ?)",
            (about, payload, state, next_at_us),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def note_attempt(self, callback_id: int, state: str, next_at_us: int, last: str) -> None:
        self._connection.execute(
            "update callback set state = ?, attempts = attempts + 1, next_at_us = ?, last = ? where id = ?",
            (state, next_at_us, last, callback_id),
        )

    def callbacks(self, *states: str) -> list[Callback]:
        """Callbacks in these states (none named: in all), in the order in which they came about."""
        rows = self._connection.execute(f"select {_CALLBACK} from callback order by id")  # noqa: S608 - a constant
        everything = [Callback(*row) for row in rows]
        return [callback for callback in everything if not states or callback.state in states]

    def due_callbacks(self, now_us: int) -> list[Callback]:
        rows = self._connection.execute(
            f"select {_CALLBACK} from callback "  # noqa: S608 - a constant
            "where state = 'waiting' and next_at_us <= ? order by next_at_us, id",
            (now_us,),
        )
        return [Callback(*row) for row in rows]
