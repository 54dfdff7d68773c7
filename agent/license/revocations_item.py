"""Keys and values to a revocation list."""

from __future__ import annotations

from agent.license import fields
from agent.license.fields import Mistake, check_ids, instant, item, key_id, listed, name, text, whole
from agent.license.values import MOST_REVOKED, MOST_SERIAL, RevocationList, RevokedLicense

_FEWER_LICENSES = "leave out licenses that have ended, or list some in another key's list"
_FEWER_KEYS = "list some in another key's list: of one key's lists only the newest counts"
_FEWER_SERIALS = 'write "all", and issue what is still good under another id'
_REVOCATIONS = ("issuer", "serial", "issued_at", "next_update", "licenses", "keys")


def read(raw: object) -> RevocationList:
    """Raises Mistake."""
    of = item(raw, _REVOCATIONS)
    revocations = RevocationList(
        issuer=of.need("issuer", text),
        serial=of.need("serial", whole(1)),
        issued_at=of.need("issued_at", instant),
        next_update=of.need("next_update", instant),
        licenses=of.get("licenses", _revoked_licenses, ()),
        keys=of.get("keys", listed(key_id, MOST_REVOKED, least=0, instead=_FEWER_KEYS), ()),
    )
    if revocations.next_update <= revocations.issued_at:
        raise Mistake(
            "next_update is not after issued_at", "say when the next list will come", ("next_update",)
        )
    return revocations


def _revoked_licenses(raw: object) -> tuple[RevokedLicense, ...]:
    found = listed(_revoked_license, MOST_REVOKED, least=0, instead=_FEWER_LICENSES)(raw)
    check_ids([one.id for one in found], "license")
    return found


def _revoked_license(raw: object) -> RevokedLicense:
    of = item(raw, ("id", "serials"))
    return RevokedLicense(of.need("id", name), of.need("serials", _serials))


def _serials(raw: object) -> frozenset[int] | None:
    if raw == "all":
        return None
    if not isinstance(raw, list):
        raise Mistake(f"{fields.found(raw)} is neither a list nor all", 'write "all", or a list of serials')
    return frozenset(listed(whole(1, MOST_SERIAL), MOST_REVOKED, instead=_FEWER_SERIALS)(raw))
