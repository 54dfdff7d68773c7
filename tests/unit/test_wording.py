"""What pydantic refuses is told in our words."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.wording import lasting, listed, what_is_wrong


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    flag: bool = False
    count: Annotated[int, Field(ge=1, le=10)] = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    name: Annotated[str, Field(min_length=2, max_length=4)] = "ab"
    mode: Literal["on", "off"] = "on"
    many: Annotated[tuple[int, ...], Field(max_length=2)] = ()
    inner: dict[str, int] = {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"flag": "perhaps"}, "true or false is expected, not perhaps"),
        ({"flag": [1]}, "true or false is expected, not a list"),
        ({"count": "x"}, "a whole number is expected, not x"),
        ({"count": 1.5}, "a whole number is expected, not 1.5"),
        ({"count": 11}, "at most 10 is expected, not 11"),
        ({"count": 0}, "at least 1 is expected, not 0"),
        ({"share": 0}, "more than 0 is expected, not 0"),
        ({"share": 1}, "less than 1 is expected, not 1"),
        ({"share": "x"}, "a number is expected, not x"),
        ({"name": 5}, "text is expected, not 5"),
        ({"name": "a"}, "at least 2 characters is expected, not a"),
        ({"name": "abcde"}, "at most 4 characters is expected, not abcde"),
        ({"mode": "onn"}, "on or off is expected, not onn"),
        ({"many": 1}, "a list is expected, not 1"),
        ({"many": [1, 2, 3]}, "at most 2 of them is expected, not a list"),
        ({"inner": True}, "keys and values is expected, not true"),
        ({"name": None}, "text is expected, not null"),
        ({"name": "x" * 900}, "at most 4 characters is expected, not " + "x" * 60 + "…"),
    ],
)
def test_every_kind_of_mistake_has_words_of_ours(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(given)
    (detail,) = caught.value.errors()
    assert what_is_wrong(detail) == told


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], ""),
        (["a", "b"], "a, b"),
        (["a"] * 20, ", ".join(["a"] * 20)),
        (["a"] * 4020, ", ".join(["a"] * 20) + " and 4,000 more"),
    ],
)
def test_of_many_names_the_first_are_told_and_how_many_more(names: list[str], told: str) -> None:
    assert listed(names) == told


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ({"seconds": 7}, "7 seconds"),
        ({"seconds": 1}, "1 second"),
        ({"days": 31}, "31 days"),
        ({"days": 1, "hours": 2, "seconds": 7}, "1 day, 2 hours and 7 seconds"),
        ({"minutes": 61}, "1 hour and 1 minute"),
        ({"days": 3650}, "3,650 days"),
        ({}, "no time"),
    ],
)
def test_a_length_of_time_is_in_words(length: dict[str, int], text: str) -> None:
    assert lasting(timedelta(**length)) == text
