"""--json keeps the contract of docs/json-output.md: every event of every command is checked."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from codecaux.cli.main import COMMANDS, main
from codecaux.cli.render import SCHEMA_VERSION, JsonRenderer
from codecaux.events import Notice, Progress, StageDone, StageStarted

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "json-output.md"
EVENTS = (
    StageStarted("fit", 400, "steps"),
    StageStarted("stream", None),
    Progress("fit", 10, 400, "steps", loss=0.03125, eta_seconds=75.0),
    Progress("stream", 10),
    StageDone("fit", 12.34),
    StageDone("stream", 0.0, resumed=True),
    Notice("no LPIPS", "warning"),
)


def documented() -> dict[str, dict[str, str]]:
    """Heading -> field -> type, from the tables of docs/json-output.md."""
    tables: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## Event `(\w+)`(?: of `(\w+)`)?", line):
            name, command = heading.groups()
            current = tables.setdefault(f"{name} of {command}" if command else name, {})
        elif line.startswith("## "):
            current = {}
        elif row := re.match(r"\| `([^`]+)` +\| ([a-z ]+?) +\|", line):
            current[row.group(1)] = row.group(2)
    return tables


TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict, list),
    "null": (type(None),),
}


def flatten(value: Any, fields: Mapping[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """(documented path, value) for every leaf; a path that is not documented comes as it is."""
    is_leaf = path in fields
    if isinstance(value, dict) and not is_leaf:
        for key, inner in value.items():
            plain = f"{path}.{key}" if path else key
            known = [
                name
                for name in fields
                if name == plain or name.startswith((plain + ".", plain + "[]"))
            ]
            wild = [
                m.group(0) for name in fields if (m := re.match(re.escape(path) + r"\.<\w+>", name))
            ]
            yield from flatten(inner, fields, plain if known or not wild else wild[0])
    elif isinstance(value, list) and not is_leaf:
        for inner in value:
            yield from flatten(inner, fields, path + "[]")
    else:
        yield path, value


def check_event(event: Mapping[str, Any]) -> None:
    """The event has exactly the documented fields, each of the documented type."""
    name = event["event"]
    fields = documented()[f"{name} of {event['command']}" if name == "result" else name]
    found = list(flatten(dict(event), fields))
    for path, value in found:
        assert path in fields, f"{name}: {path} is not documented"
        allowed = tuple(t for part in fields[path].split(" or ") for t in TYPES[part])
        assert type(value) in allowed, f"{name}: {path} is {value!r}, documented as {fields[path]}"
    absent = {f for f in fields if "[]" not in f} - {path for path, _ in found}
    assert not absent, f"{name}: documented and absent: {sorted(absent)}"


def test_every_kind_of_event_is_as_documented() -> None:
    stream = io.StringIO()
    renderer = JsonRenderer("encode", stream, interval_seconds=0.0)
    for event in EVENTS:
        renderer.show(event)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(events) == len(EVENTS) + 1
    for each in events:
        check_event(each)


def test_the_document_covers_every_command_and_names_the_version() -> None:
    assert f"schema version **{SCHEMA_VERSION}**" in DOCUMENT.read_text(encoding="utf-8")
    kinds = {"start", "stage_started", "progress", "stage_done", "notice", "error"}
    assert set(documented()) == kinds | {f"result of {command}" for command in COMMANDS}


def test_the_check_sees_what_is_not_documented() -> None:
    good = {"event": "notice", "message": "a", "level": "info"}
    check_event(good)
    with pytest.raises(AssertionError, match="not documented"):
        check_event({**good, "extra": 1})
    with pytest.raises(AssertionError, match="absent"):
        check_event({"event": "notice", "message": "a"})
    with pytest.raises(AssertionError, match="documented as"):
        check_event({**good, "level": 3})


def run_json(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and checked events of a command."""
    code = main([*map(str, arguments), "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for event in events:
        check_event(event)
    return code, events


def test_every_command_keeps_the_contract(
    clip: Path,
    make_clip: Callable[..., Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    stream, weights, shown = (tmp_path / n for n in ("t.mp4", "t.weights", "shown.mkv"))
    fast = ("--net", "tiny", "--steps", "12", "--objective", "fidelity", "--preset", "ultrafast")
    tiny = ("--net", "tiny", "--steps", "2", "--batch", "1", "--jobs", "1", "--preset", "ultrafast")
    longer = make_clip("ladder-title.mkv", frames=24, fps="24")
    ladder = ("--crf", "34", "--scales", "2", *fast)
    results = {}
    for command, *arguments in (
        ("encode", clip, "-o", stream, *fast),
        ("play", stream, "-o", shown),
        ("measure", clip, stream, "--weights", weights, "--temporal", "-o", tmp_path / "steady"),
        ("inspect", weights),
        ("verify", stream, weights),
        ("pretrain", photos, "-o", tmp_path / "base.safetensors", *tiny),
        ("curve", clip, "--crf", "34", "--scales", "2", *fast),
        ("ladder", longer, "-o", tmp_path / "ladder", "--segment", "0.5", "--h264", *ladder),
        ("cache", "list"),
        ("doctor",),
    ):
        code, events = run_json(capsys, command, *arguments)
        assert code == 0
        assert [e["event"] for e in events if e["event"] in {"start", "result", "error"}] == [
            "start",
            "result",
        ]
        assert (events[0]["event"], events[-1]["event"]) == ("start", "result")
        results[command] = events[-1]
    # The same pair, by two commands.
    for name in ("bicubic", "enhanced"):
        ours, theirs = (results[c]["scores"][name] for c in ("encode", "measure"))
        assert ours["psnr_y_db"] == pytest.approx(theirs["psnr_y_db"], abs=1e-6)
    assert results["encode"]["weights_bytes"] == weights.stat().st_size
    assert results["encode"]["weights_bytes"] == results["inspect"]["file_bytes"]
    total = results["encode"]["stream_bytes"] + results["encode"]["weights_bytes"]
    seconds = results["encode"]["duration_seconds"]
    assert results["encode"]["total_kbps"] == pytest.approx(total * 8 / seconds / 1000)


def test_an_error_keeps_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, events = run_json(capsys, "inspect", tmp_path / "nothing.weights")
    assert code == events[-1]["exit_code"] == 3
    assert [event["event"] for event in events] == ["start", "error"]
    code, events = run_json(capsys, "encode")
    assert code == events[-1]["exit_code"] == 2
    assert [event["event"] for event in events] == ["error"]
