"""Validates one item of a policy file against its pydantic model, and words mistakes for the operator."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agent.policy.document.fields import MISTAKE, kind
from agent.policy.document.schema import NOT_YET, Item
from agent.policy.document.yamltext import Location, Text
from agent.policy.findings import Findings
from agent.policy.values import Place
from agent.wording import did_you_mean, what_is_wrong

ItemType = TypeVar("ItemType", bound=Item)

_WHY_NEEDED = {
    "product": "name the product whose licenses cover it",
    "ports": "list at least one {port, class}",
    "class": "write public, internal or admin",
}


def read_item(
    model: type[ItemType], raw: Any, what: str, text: Text, location: Location, findings: Findings
) -> ItemType | None:
    """The item, or None after its mistakes were added to `findings`. Messages call it `what`."""
    if not isinstance(raw, dict):
        findings.error(
            text.place(location), f"{what}: expected keys and values, found {kind(raw)}", _keys_of(model)
        )
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place, reason, remedy = _explained(model, detail, text, location)
            findings.error(place, f"{what}: {reason}", remedy)
        return None


def _explained(
    model: type[Item], detail: ErrorDetails, text: Text, location: Location
) -> tuple[Place, str, str]:
    inside = detail["loc"]
    key = str(inside[0]) if inside else ""
    place = text.place((*location, *inside))
    if detail["type"] == "missing":
        return text.place(location), f"lacks '{key}'", _WHY_NEEDED.get(key, f"add `{key}: …`")
    if detail["type"] == "extra_forbidden":
        if key in (later := NOT_YET.get(model, {})):
            return place, f"'{key}' is not supported by this version yet", later[key]
        return place, f"unknown key '{key}'", did_you_mean(key, _keys(model), _keys_of(model))
    if detail["type"] == MISTAKE:
        reason, remedy = detail["ctx"]["reason"], detail["ctx"]["remedy"]
        return place, reason if reason.startswith(key) else f"{key}: {reason}", remedy
    return place, f"{key}: {what_is_wrong(detail)}", ""


def _keys(model: type[Item]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _keys_of(model: type[Item]) -> str:
    return f"its keys are {', '.join(_keys(model))}"
