"""The name by which 0.1.0 starts agent.kernel.loading.gates. Goes with the release after 0.2.0.

A daemon of 0.1.0 that still runs after its files were replaced asks for its gates when something begins to
enforce. Those that it has loaded at its start fit its maps and are pinned; those of this version do not.
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
    """As gates.run; with what 0.1.0 has pinned, that is what is loaded."""
    pinned = Pins(Path(job["pins"]), "1").programs()
    if not pinned:
        return gates.run(job)
    missing = [name for name in _PROGRAMS if name not in pinned]
    return {"refused": dict.fromkeys(missing, "not loaded when 0.1.0 started")}


if __name__ == "__main__":
    sys.exit(answer(run))
