"""`tollkeeper streams`: charge streams of balance that stopped or wait, and what becomes of the batch they stand at."""

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, printable, say
from deploy.cli.services import open_services
from shared.events.charges import compress, decompress

streams = typer.Typer(no_args_is_help=True)

ShardArgument = Annotated[int, typer.Argument(metavar="SHARD", min=0, help="The stream's shard.")]
SeqArgument = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="The batch that it stands at.")]
Actor = Annotated[str, typer.Option(help="Who decided it; it stays on record.")]
Reason = Annotated[str, typer.Option(help="Why; it stays on record.")]


@streams.command("list")
def list_streams(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also the streams that are well.")] = False,
    json: JsonOption = False,
) -> None:
    """List the streams that are stopped or in which batches wait."""
    found: list[dict[str, Any]] = []
    parameters = {"in_trouble": "false" if every else "true"}
    with open_services() as services:
        while True:
            page = services.get("balance", "/v1/streams", parameters)
            found += page["streams"]
            if page["next"] is None:
                break
            parameters["after"] = page["next"]
    if json:
        print_json({"streams": found})
        return
    for stream in found:
        say(_describe(stream))
    say(f"{len(found)} streams")


@streams.command("show")
def show_stream(
    shard: ShardArgument,
    *,
    output: Annotated[Path | None, typer.Option(help="Write the batch that it stands at there, to be mended.")] = None,
    json: JsonOption = False,
) -> None:
    """Show a stream, the batch that it stands at, and what was decided before."""
    with open_services() as services:
        stream = services.get("balance", f"/v1/streams/{shard}")
    if output is not None:
        _write(stream, output)
    if json:
        print_json(stream)
        return
    say(_describe(stream))
    for item in stream["next_batches"]:
        fault = f": {item['fault']}" if item["fault"] else ""
        say(printable(f"  batch {item['seq']}, sha256 {item['sha256'][:16]}, came {item['arrived_at']}{fault}"))
    for row in stream["decisions"]:
        told = f"  {row['decided_at']} batch {row['seq']} {row['kind']} by {row['actor']}: {row['reason']}"
        say(printable(told))


@streams.command("resume")
def resume_stream(shard: ShardArgument, *, actor: Actor, reason: Reason, json: JsonOption = False) -> None:
    """Let a stopped stream go on; it stops again if its next batch still can't be posted."""
    _decide(shard, "resume", {"actor": actor, "reason": reason}, json=json)


@streams.command("mend")
def mend_stream(
    shard: ShardArgument,
    seq: SeqArgument,
    *,
    body: Annotated[Path, typer.Option(help="A file with the batch to post instead: JSON, or compressed.")],
    actor: Actor,
    reason: Reason,
    json: JsonOption = False,
) -> None:
    """Post another batch in place of the one that a stream stands at."""
    try:
        data = body.read_bytes()
    except OSError as error:
        raise CommandError(f"{body} can't be read: {error.strerror}") from error
    value = compress(data) if data.lstrip()[:1] == b"{" else data
    content = {"seq": seq, "base64": base64.b64encode(value).decode(), "actor": actor, "reason": reason}
    _decide(shard, "mend", content, json=json)


@streams.command("skip")
def skip_stream(
    shard: ShardArgument, seq: SeqArgument, *, actor: Actor, reason: Reason, json: JsonOption = False
) -> None:
    """Post nothing for the batch that a stream stands at; what it would have posted is kept and printed."""
    _decide(shard, "skip", {"seq": seq, "actor": actor, "reason": reason}, json=json)


def _decide(shard: int, what: str, content: dict[str, Any], *, json: bool) -> None:
    with open_services() as services:
        answer = services.post("balance", f"/v1/streams/{shard}/{what}", content)
    if json:
        print_json(answer)
        return
    for batch in answer["would_post"] or []:
        for account in batch or []:
            say(printable(f"not posted: {account['region']}/{account['tenant_id']} {account['totals']}"))
    stopped = f"; stopped again: {answer['stopped_reason']}" if answer["stopped_reason"] else ""
    say(printable(f"shard {shard} is posted up to {answer['seq']}, {answer['set_aside']} batches set aside{stopped}"))


def _describe(stream: dict[str, Any]) -> str:
    if stream["stopped"]:
        state = f"stopped at {stream['stopped_at']}: {stream['stopped']}"
    elif stream["missing"] is not None:
        state = f"batch {stream['missing']} is missing, asked for {stream['asked']} times"
    else:
        state = "going on"
    waiting = f"{stream['waiting']} waiting"
    return printable(f"shard {stream['shard']}: posted up to {stream['seq']}, {waiting}; {state}")


def _write(stream: dict[str, Any], path: Path) -> None:
    """The document of the batch, or its bytes where they hold none."""
    if not stream["next_batches"]:
        raise CommandError(f"nothing waits as batch {stream['seq'] + 1} of shard {stream['shard']}")
    value = base64.b64decode(stream["next_batches"][0]["value_base64"])
    try:
        path.write_bytes(decompress(value))
    except ValueError:
        path.write_bytes(value)
