"""The module name under which 0.1.0 starts agent.kernel.loading.gates. The release after 0.2.0 removes it.

A daemon of 0.1.0 may still run after its files were replaced. It asks for its gates when a target begins to
enforce. The gates that it loaded at its start are pinned and fit its maps; this version's gates do not fit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agent.kernel.loading import gates
from agent.kernel.loading.child import answer
from agent.kernel.pins import Pins

_PROGRAMS = (
    *("refuse_connect4", "refuse_connect6", "refuse_bind4", "refuse_bind6"),
    *("refuse_packet", "refuse_lookup", "judge_rewritten"),
)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Like gates.run. Where 0.1.0 has pinned programs, load nothing and report the missing ones as
    refused."""
    pinned = Pins(Path(job["pins"]), "1").programs()
    if not pinned:
        return gates.run(job)
    missing = [name for name in _PROGRAMS if name not in pinned]
    return {"refused": dict.fromkeys(missing, "not loaded when 0.1.0 started")}


if __name__ == "__main__":
    sys.exit(answer(run))
