"""`make soak MINUTES=60`: a hostile hour beside normal use, in a laboratory. Exit 0: all is right."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.metrics_text import Samples
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.soak import findings
from tests.soak.findings import Finding
from tests.soak.firsts import WITHIN_S, Firsts
from tests.soak.hostile import Hostile
from tests.soak.normal import Normal
from tests.soak.told import Told
from tests.soak.world import HEALTH, LISTEN, SETTINGS, Program, World

SAYS_EACH_S = 60.0
SETTLED_WITHIN_S = 60.0
NORMAL, LOCAL = ("db", "dns", "web"), ("bait", "lure", "first", "half_open", "crowded")
"""Nothing counts at the last two: a half-open connection is none, and waves of listeners have no clients."""


class Soak:
    """One run."""

    def __init__(self, lab: Lab, agent: RunningAgent, world: World) -> None:
        self._agent = agent
        self._world = world
        self._pid = agent.pid
        self._told = Told(agent.files.events)
        self._normal = Normal(world)
        self._hostile = Hostile(world, agent)
        self._firsts = Firsts(world, self._told)
        arguments = (agent.pid, LISTEN, HEALTH, agent.files.control)
        self._probe = world.start("probe", "probe", lab.host, *arguments, cgroup=None)

    def run(self, seconds: float) -> tuple[list[Finding], dict[str, Any]]:
        self._told.start()
        self._normal.start()
        self._hostile.start()
        until_s, say_s = time.monotonic() + seconds, time.monotonic() + SAYS_EACH_S
        try:
            while time.monotonic() < until_s and self._agent.is_running:
                self._firsts.step()
                if time.monotonic() >= say_s:
                    say_s += SAYS_EACH_S
                    self._say(until_s)
                time.sleep(0.1)
        except KeyboardInterrupt:
            say("ended before its time")
        under_load = list(self._probe.lines)
        *hostile_and_normal, probe = sorted(self._world.programs, key=lambda one: one is self._probe)
        troubles = ended(hostile_and_normal)
        if not self._agent.is_running or not under_load:
            return [Finding("the agent runs", False, "it has ended", (self._agent.log()[-2000:],))], {}
        samples = self._settled()
        troubles += ended([probe])
        return self._judge(samples, under_load, troubles)

    def _say(self, until_s: float) -> None:
        second = self._probe.lines[-1]
        slowest = max(taken for taken, _ in second["asked"].values())
        say(
            f"{(until_s - time.monotonic()) / 60:.0f} min to go; {second['rss_kb'] / 1000:.1f} MB, "
            f"slowest answer {slowest * 1000:.0f} ms, {sum(self._told.events.values())} events, "
            f"{len(self._firsts.made)} first violations"
        )

    def _settled(self) -> Samples:
        """The metrics, once nothing more is told and every flow is closed."""
        until_s = time.monotonic() + SETTLED_WITHIN_S
        before, quiet_s = -1, time.monotonic()
        while time.monotonic() < until_s and time.monotonic() - quiet_s < 25:  # two summaries and a bit
            if (now := sum(self._told.attempts.values())) != before:
                before, quiet_s = now, time.monotonic()
            time.sleep(0.5)
        samples = self._agent.metrics()
        self._told.end()
        return samples

    def _judge(
        self, samples: Samples, seconds: list[dict[str, Any]], troubles: list[str]
    ) -> tuple[list[Finding], dict[str, Any]]:
        """`seconds`: what the probe said under load."""
        now, lost = findings.counted(samples), findings.losses(samples)
        wrong = [*self._normal.wrong(), *self._hostile.wrong()]
        wrong += [f"first of uid {uid} was let through" for uid in self._firsts.let_through]
        made = self._normal.made()
        local = self._hostile.made() + self._firsts.counts()
        attempts = sum(made.values()) + sum(local.values())
        health, asked = findings.answers(seconds)
        memory, rss = findings.memory(seconds)
        late = self._firsts.late()
        found = [
            Finding("each verdict is right", not wrong, f"{attempts} attempts", tuple(wrong[:20])),
            findings.compared("normal use is counted exactly", made, now, NORMAL),
            findings.compared("local hostile attempts are counted exactly", local, now, LOCAL),
            findings.arrived(
                "spoofed packets are counted once",
                self._hostile.syns.said.get("made", 0) + self._hostile.datagrams.said.get("made", 0),
                now["spoofed", "remote", "denied"],
            ),
            *health,
            memory,
            Finding(
                f"each first violation is told within {WITHIN_S:.0f} s",
                not late,
                f"{len(self._firsts.made)} made, slowest told after {self._firsts.slowest_s():.1f} s",
                tuple(f"uid {uid}: {seconds:.1f} s" for uid, seconds in late.items()),
            ),
            findings.told_or_lost(now, self._told.attempts, lost),
            findings.exactness(lost),
            self._quiet(samples),
            Finding(
                "the soak itself went well",
                not troubles,
                f"{len(self._world.programs)} programs",
                tuple(troubles),
            ),
        ]
        return found, {
            "answers": asked,
            "memory": rss,
            "processor": findings.processor(seconds),
            "losses": lost,
            "events": dict(self._told.events),
            "event_bytes": self._told.bytes,
            "counted": {"/".join(key): count for key, count in sorted(now.items())},
            "told": {"/".join(key): count for key, count in sorted(self._told.attempts.items())},
            "programs": {program.name: program.said for program in self._world.programs},
            "maps": {
                "/".join([name, dict(labels)["map"]]): value
                for (name, labels), value in samples.items()
                if name == "licet_map_entries"
            },
        }

    def _quiet(self, samples: Samples) -> Finding:
        """The agent ran all the while, failed in nothing, and follows no flow that has ended."""
        open_now = {
            dict(labels)["service"]: value
            for (name, labels), value in samples.items()
            if name == "licet_active_connections" and value
        }
        log = self._agent.log()
        details = [f"flows of {service}: {count:.0f} still open" for service, count in open_now.items()]
        details += [f"not JSON: {line}" for line in self._told.bad[:5]]
        if "Traceback" in log:
            details.append(log[log.index("Traceback") :][:2000])
        if self._agent.pid != self._pid:
            details.append("it is another process")
        warned = sum("WARNING" in line or "ERROR" in line for line in log.splitlines())
        said = f"{len(log.splitlines())} lines in its log, {warned} of them warnings"
        return Finding("the agent ran on, without a failure", not details, said, tuple(details))


def ended(programs: list[Program]) -> list[str]:
    """What did not end as it should."""
    for program in programs:
        program.tell_to_end()
    return [trouble for trouble in [program.wait() for program in programs] if trouble]


def table(found: list[Finding]) -> str:
    lines = []
    width = max(len(one.what) for one in found)
    for one in found:
        lines.append(f"{'right' if one.is_right else 'WRONG'}  {one.what:<{width}}  {one.measured}")
        if not one.is_right:
            lines += [f"       {line}" for line in one.details[:20]]
    return "\n".join(lines)


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "soak.json")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("soak: this loads programs into the kernel: run it as root", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(number, signal.default_int_handler)
    began = datetime.now(UTC)
    with Lab() as lab:
        world = World(lab)
        world.prepare()
        with lab.agent(world.policy, SETTINGS, start=False) as agent:
            # as its unit does: not a readable line for each event as well
            agent.start(command=[LICET, "run", "--quiet", "--config", agent.files.config], timeout_s=120)
            agent.wait_until_it_stands_by()
            say(f"{arguments.minutes:g} minutes in {lab.directory}")
            found, numbers = Soak(lab, agent, world).run(arguments.minutes * 60)
            log = agent.log()
    is_right = all(one.is_right for one in found)
    said = {
        "began": began.isoformat(),
        "minutes": arguments.minutes,
        "kernel": os.uname().release,
        "is_right": is_right,
        "findings": [
            {"what": one.what, "is_right": one.is_right, "measured": one.measured, "details": one.details}
            for one in found
        ],
        **numbers,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(said, indent=1) + "\n")
    arguments.output.with_suffix(".log").write_text(log)
    print(table(found))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
