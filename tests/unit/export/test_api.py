import asyncio
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from agent.errors import KernelError, PolicyError, PolicyErrors
from agent.export.api import AT_ONCE, _follow, control_app, public_app
from agent.export.event_log import EventLog
from agent.export.hosts import Hosts
from agent.model import Flow, Process, Target
from tests.fixtures.metrics_text import parse_metrics, total
from tests.unit.export.fake_agent import INTERNAL, FakeAgent, flow


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


class App:
    """An application asked without a socket; one loop for each request."""

    def __init__(self, app: Starlette) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, **request))

    async def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://licet") as client:
            return await client.request(method, path, **request)

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.request("GET", path, **request)

    def post(self, path: str) -> httpx.Response:
        return self.request("POST", path)


@pytest.fixture
def public(agent: FakeAgent) -> App:
    return App(public_app(agent, Hosts(["licet"])))


@pytest.fixture
def control(agent: FakeAgent) -> App:
    return App(control_app(agent))


def test_a_scrape_is_text_unless_openmetrics_is_asked_for(public: App) -> None:
    plain = public.get("/metrics", headers={"accept": "*/*"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert total(parse_metrics(plain.text), "licet_connections_total") == 15
    modern = public.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.text.endswith("# EOF\n")


def test_a_scrape_is_compressed_for_who_can_read_it(public: App) -> None:
    compressed = public.get("/metrics", headers={"accept-encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert "licet_build_info" in compressed.text
    whole = public.get("/metrics", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in whole.headers
    assert int(whole.headers["content-length"]) > 4 * int(compressed.headers["content-length"])


def test_an_accept_header_that_makes_no_sense_gets_text(public: App) -> None:
    answer = public.get("/metrics", headers={"accept": "application/openmetrics-text; version=x.y"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


def test_ready_only_once_a_policy_is_judged_by(public: App, agent: FakeAgent) -> None:
    assert public.get("/readyz").json() == {"ready": True, "reason": "ready"}
    agent.is_ready = False
    answer = public.get("/readyz")
    assert answer.status_code == 503
    assert "policy" in answer.json()["reason"]
    assert public.get("/healthz").status_code == 200


def test_nothing_on_tcp_names_a_process_or_changes_anything(public: App) -> None:
    for path in ("/v1/status", "/v1/flows", "/v1/events", "/v1/policy"):
        assert public.get(path).status_code == 404
    assert public.post("/v1/reload").status_code == 404


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/status", lambda answer: answer["mode"] == "observe"),
        ("/v1/flows", lambda answer: answer[0]["consumer"]["comm"] == "curl"),
        ("/v1/licenses", lambda answer: answer["licenses"][1]["extensions"] == {"order": "4711"}),
        ("/v1/licenses", lambda answer: answer["licenses"][2]["verified"] is False),
        ("/v1/licenses", lambda answer: answer["revocations"][0]["issuer"] == "Acme"),
        ("/v1/listeners", lambda answer: answer[0]["states"] == ["declared", "exposed_port"]),
        ("/v1/listeners", lambda answer: answer[0]["owners"][0]["pid"] == 812),
        ("/v1/acceptors", lambda answer: answer[0]["flows"] == 6),
        ("/v1/edges?limit=2", lambda answer: [edge["port"] for edge in answer] == [0, 1]),
        ("/v1/policy", lambda answer: answer["generation"] == 7),
    ],
)
def test_what_the_agent_knows_is_json(control: App, path: str, found: object) -> None:
    assert callable(found)
    answer = control.get(path)
    assert answer.status_code == 200
    assert found(answer.json())


def test_events_come_by_number_and_by_type(control: App, agent: FakeAgent) -> None:
    for n in range(6):
        agent.log.write({"type": "use" if n % 2 else "violation", "n": n})
    assert [event["n"] for event in control.get("/v1/events?limit=2").json()] == [4, 5]
    assert [event["n"] for event in control.get("/v1/events?limit=2&type=use").json()] == [3, 5]
    assert control.get("/v1/events?limit=0").json() == []


@pytest.mark.parametrize("limit", ["-1", "x", "", "1e3", "100001", "9" * 5000, "٣x"])
def test_a_limit_that_is_no_number_is_refused(control: App, limit: str) -> None:
    answer = control.get("/v1/events", params={"limit": limit})
    assert answer.status_code == 400
    assert "limit" in answer.json()["error"]


def test_a_follower_gets_the_past_and_then_what_comes(agent: FakeAgent) -> None:
    agent.log.write({"type": "use", "n": 0})
    agent.log.write({"type": "use", "n": 1})

    async def read() -> list[dict[str, object]]:
        stop = False
        lines = _follow(agent, 1, "", lambda: stop)
        seen = [json.loads(await anext(lines))]
        agent.log.write({"type": "use", "n": 2})
        seen.append(json.loads(await anext(lines)))
        stop = True
        seen.extend([json.loads(line) async for line in lines])
        return seen

    assert [event["n"] for event in asyncio.run(read())] == [1, 2]


def test_a_follower_that_was_too_slow_is_told_how_much_it_missed(agent: FakeAgent) -> None:
    agent.log = EventLog("none", 3)

    async def read() -> list[dict[str, object]]:
        lines = _follow(agent, 1, "", lambda: False)
        agent.log.write({"type": "use", "n": 0})
        await anext(lines)
        for n in range(1, 6):
            agent.log.write({"type": "use", "n": n})
        return [json.loads(await anext(lines)) for _ in range(4)]

    missed, *rest = asyncio.run(read())
    assert (missed["type"], missed["count"]) == ("missed", 2)
    assert [event["n"] for event in rest] == [3, 4, 5]


def test_a_reload_that_the_policy_refuses_says_where_and_what(control: App, agent: FakeAgent) -> None:
    assert control.post("/v1/reload").json() == {"generation": 8, "warnings": []}
    assert agent.reloads == 1
    mistake = PolicyError(path="policy.yaml", line=3, reason="unknown key 'servces'", remedy="write services")
    agent.fails_with = PolicyErrors([mistake])
    answer = control.post("/v1/reload")
    assert answer.status_code == 422
    assert answer.json() == {"error": "policy.yaml:3: unknown key 'servces' (write services)"}


def test_what_the_kernel_refuses_is_the_servers_failure(control: App, agent: FakeAgent) -> None:
    agent.fails_with = KernelError("map flows is gone; run `licet load`")
    answer = control.get("/v1/status")
    assert (answer.status_code, answer.json()) == (500, {"error": "map flows is gone; run `licet load`"})


def test_a_bug_is_an_answer_and_one_line_in_the_log(
    control: App, agent: FakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.fails_with = KeyError("hooks")
    with caplog.at_level(logging.WARNING, "agent"):
        answer = control.get("/v1/status")
    assert answer.status_code == 500
    assert "KeyError" in answer.json()["error"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("agent")] == [
        "GET /v1/status failed: KeyError: 'hooks'"
    ]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/status"), ("GET", "/v1/reload"), ("PUT", "/v1/flows")]
)
def test_a_wrong_method_is_told_the_right_one(control: App, method: str, path: str) -> None:
    answer = control.request(method, path)
    assert answer.status_code == 405
    assert "error" in answer.json()
    assert answer.headers["allow"]


def test_an_unknown_path_is_not_found(control: App) -> None:
    answer = control.get("/v2/../etc/passwd")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("/etc/passwd: no such path; there are /v1/acceptors, ")
    near = control.get("/v1/event")
    assert (near.status_code, near.json()) == (
        404,
        {"error": "/v1/event: no such path; did you mean '/v1/events'?"},
    )
    assert control.get("/v1/reload").json() == {"error": "/v1/reload: method GET is not allowed; use POST"}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("limit=x", "limit: a whole number from 0 to 100000 is expected, not x"),
        ("limit=-1", "limit: a whole number from 0 to 100000 is expected, not -1"),
        ("limit=", "limit: a whole number from 0 to 100000 is expected, not nothing"),
        ("type=violations", "type: violations is not a valid event type: did you mean 'violation'?"),
        ("limt=5", "limt: no such parameter; did you mean 'limit'?"),
        ("follow=yes", "follow: 0 or 1 is expected, not yes"),
        ("follow=1&limit=x", "limit: a whole number from 0 to 100000 is expected, not x"),
        ("follow=1&type=x", "type: x is not a valid event type: violation, use, "),
    ],
)
def test_what_a_query_asks_for_is_refused_in_words(control: App, query: str, told: str) -> None:
    answer = control.get(f"/v1/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(told)


def test_an_executable_with_an_undecodable_name_is_listed(control: App, agent: FakeAgent) -> None:
    agent.flow_rows = [(INTERNAL, flow(consumer=Process(pid=9, exe=os.fsdecode(b"/tmp/\xff"))))]
    assert control.get("/v1/flows").json()[0]["consumer"]["exe"] == r"/tmp/\xff"


def test_a_long_list_is_answered_piece_by_piece(control: App, agent: FakeAgent) -> None:
    made: list[int] = []

    class Rows:
        """As the daemon's: made when they are asked for, and in the order of age."""

        def __iter__(self) -> Iterator[tuple[Target, Flow]]:
            for number in range(3 * AT_ONCE + 1):
                made.append(number)
                yield INTERNAL, flow(cookie=number)

    agent.flow_rows = Rows()  # type: ignore[assignment]
    response = control.get("/v1/flows")
    assert "content-length" not in response.headers
    assert [one["cookie"] for one in response.json()] == made == list(range(3 * AT_ONCE + 1))


@pytest.mark.parametrize("many", [0, 1, AT_ONCE, 2 * AT_ONCE])
def test_a_list_of_any_length_is_json(control: App, agent: FakeAgent, many: int) -> None:
    agent.flow_rows = [(INTERNAL, flow(cookie=number)) for number in range(many)]
    assert [one["cookie"] for one in control.get("/v1/flows").json()] == list(range(many))


def test_each_value_of_a_list_has_a_line_of_its_own(control: App, agent: FakeAgent) -> None:
    odd = Process(pid=9, comm="a\nb\u2028c")
    agent.flow_rows = [(INTERNAL, flow(cookie=number, consumer=odd)) for number in range(3)]
    first, *lines, last = control.get("/v1/flows").text.splitlines()
    assert (first, last) == ("[", "]")
    assert [json.loads(line.rstrip(","))["cookie"] for line in lines] == [0, 1, 2]


def test_a_list_that_fails_at_once_is_an_error(control: App, agent: FakeAgent) -> None:
    def broken() -> Iterator[tuple[Target, Flow]]:
        raise KernelError("no such map")
        yield

    agent.flow_rows = broken()  # type: ignore[assignment]
    answer = control.get("/v1/flows")
    assert (answer.status_code, answer.json()) == (500, {"error": "no such map"})
