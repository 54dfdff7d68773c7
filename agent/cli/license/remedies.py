"""What an operator does about a document that does not hold, as docs/licenses.md says it."""

from __future__ import annotations

from agent.license.report import State

_REMEDIES = {
    State.UNKNOWN_KEY: "ask its vendor, and pin a key only after you compared its kid",
    State.BAD_SIGNATURE: "copy it again, or ask its vendor for it",
    State.REVOKED: "ask its vendor for another one",
    State.SUPERSEDED: "remove this file; a renewal has a higher serial",
    State.NODE_MISMATCH: "ask its vendor for one for this host, with a file of `licet license request`",
    State.CLOCK_ROLLBACK: "set the clock right",
    State.NOT_YET_VALID: "wait, or keep the older file until it begins",
    State.EXPIRED: "put its renewal there",
}


def remedy_of(state: State) -> str:
    """A clause; "" for a state that needs none, or whose reason has the remedy."""
    return _REMEDIES.get(state, "")
