"""Nothing grows without a word: each table of each database stands in the page that says what ends it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Partitions are made by functions, not like this.
TABLE = re.compile(r"^create table (?:if not exists )?([a-z_]+)", re.MULTILINE)


def test_every_table_has_a_retention_or_a_reason() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    section = page.partition("## What grows, and what ends it")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([a-z_]+)`", section))
    folders = [*ROOT.glob("services/*/migrations"), ROOT / "shared" / "migrations"]
    made = {
        name for folder in folders for path in folder.glob("*.sql") for name in TABLE.findall(path.read_text("utf-8"))
    }
    assert len(folders) == 5
    assert made - listed == set(), "say in ARCHITECTURE.md what ends these"
    assert {name for name in listed if "_" in name} - made == set(), "these are no tables"
