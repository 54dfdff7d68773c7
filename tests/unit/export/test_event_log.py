import json
import os
from pathlib import Path

from agent.export.event_log import EventLog


def numbered(count: int) -> list[dict[str, object]]:
    return [{"type": "use", "n": n} for n in range(count)]


def test_every_event_is_one_json_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(str(path), 10)
    events = [{"type": "use", "exe": "/opt/größe\nx"}, {"type": "violation"}]
    for event in events:
        log.write(event)
    assert [json.loads(line) for line in path.read_text().splitlines()] == events
    assert log.losses() == {"event_sink": 0, "event_sink_stalled": 0}


def test_an_executable_with_an_undecodable_name_still_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(str(path), 10)
    log.write({"type": "use", "exe": os.fsdecode(b"/tmp/\xff")})
    assert json.loads(path.read_text())["exe"] == r"/tmp/\xff"
    assert log.recent(1) == [{"type": "use", "exe": r"/tmp/\xff"}]
    assert log.losses()["event_sink"] == 0


def test_what_a_full_disk_refused_is_counted_and_still_shown() -> None:
    log = EventLog("/dev/full", 10)
    for event in numbered(3):
        log.write(event)
    assert log.losses() == {"event_sink": 3, "event_sink_stalled": 0}
    assert log.recent(10) == numbered(3)


def test_what_a_stalled_reader_cost_has_a_cause_of_its_own() -> None:
    class Stalled:
        def write(self, line: str) -> None:
            raise BlockingIOError

        def reopen(self) -> None:
            raise AssertionError("a stall is no reason to open again")

    log = EventLog(Stalled(), 10)
    log.write({"type": "use"})
    assert log.losses() == {"event_sink": 0, "event_sink_stalled": 1}


def test_a_file_is_written_again_once_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "later" / "events.jsonl"
    log = EventLog(str(path), 10)
    log.write({"n": 0})
    path.parent.mkdir()
    log.write({"n": 1})
    assert path.read_text() == '{"n":1}\n'
    assert log.losses()["event_sink"] == 1


def test_only_the_newest_are_kept_and_the_limit_counts_from_the_end() -> None:
    log = EventLog("none", 3)
    for event in numbered(5):
        log.write(event)
    assert [event["n"] for event in log.recent(100)] == [2, 3, 4]
    assert [event["n"] for event in log.recent(2)] == [3, 4]
    assert log.recent(0) == []


def test_a_cursor_gives_what_came_after_it_and_shows_what_is_no_longer_kept() -> None:
    log = EventLog("none", 3)
    cursor = log.cursor
    assert log.since(cursor) == (0, [])
    for event in numbered(2):
        log.write(event)
    cursor, events = log.since(cursor)
    assert [event["n"] for event in events] == [0, 1]
    for event in numbered(5):
        log.write(event)
    newer, events = log.since(cursor)
    assert [event["n"] for event in events] == [2, 3, 4]
    assert newer - cursor - len(events) == 2


def test_an_agent_that_keeps_nothing_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(str(path), 0)
    log.write({"n": 0})
    assert path.read_text() == '{"n":0}\n'
    assert log.since(0) == (1, [])


def made_by(uid: int, number: int) -> dict[str, object]:
    return {"type": "violation", "n": number, "consumer": {"uid": uid}}


def test_a_flood_pushes_out_its_own_events() -> None:
    log = EventLog("none", 100)
    log.write(made_by(1002, 0))
    log.write({"type": "policy"})
    for number in range(1_000):
        log.write(made_by(1001, number))
        log.write({"type": "violation", "origin": "remote", "consumer": {}})
        log.write({"type": "flow_open", "consumer": {"uid": 0}})
    kept = log.recent(1_000)
    assert len(kept) == 100
    assert kept[:2] == [made_by(1002, 0), {"type": "policy"}]
    assert [one["n"] for one in kept if one.get("consumer", {}).get("uid") == 1001][-1] == 999


def test_a_flood_of_license_events_pushes_out_no_mode_change() -> None:
    log = EventLog("none", 100)
    log.write({"type": "mode", "message": "who switched it off"})
    log.write(made_by(1002, 0))
    for number in range(1_000):
        log.write({"type": "license", "file": f"{number}.json", "state": "malformed"})
    kept = log.recent(1_000)
    assert [one["type"] for one in kept[:2]] == ["mode", "violation"]
    assert kept[-1]["file"] == "999.json"


def test_a_flood_of_many_users_leaves_the_newest_of_each() -> None:
    log = EventLog("none", 100)
    for number in range(1_000):
        log.write(made_by(number % 150, number))
    assert [one["n"] for one in log.recent(1_000)] == sorted(one["n"] for one in log.recent(1_000))
    assert len(log.recent(1_000)) == 100
    assert log.recent(1) == [made_by(999 % 150, 999)]


def test_a_follower_learns_how_many_were_pushed_out() -> None:
    log = EventLog("none", 10)
    for number in range(30):
        log.write(made_by(1, number))
    cursor, events = log.since(15)
    assert (cursor, [one["n"] for one in events]) == (30, list(range(20, 30)))
    assert log.since(cursor) == (30, [])


def test_none_are_kept_where_none_is_wanted() -> None:
    log = EventLog("none", 0)
    log.write(made_by(1, 1))
    assert log.recent(5) == []
