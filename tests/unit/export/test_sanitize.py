import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.export.sanitize import encodable, printable, to_json

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def test_bytes_that_are_not_utf8_are_shown_by_their_value() -> None:
    name = os.fsdecode(b"/tmp/caf\xe9")
    assert encodable(name) == r"/tmp/caf\xe9"
    assert json.loads(to_json({"exe": name})) == {"exe": r"/tmp/caf\xe9"}


@given(ANY_TEXT)
def test_whatever_a_name_is_it_can_be_written_as_utf8(text: str) -> None:
    encodable(text).encode()
    line = to_json([text])
    line.encode()
    assert json.loads(line) == [encodable(text)]
    assert "\n" not in line


@pytest.mark.parametrize(
    "steering", ["\x1b[2J", "\x9b2J", "\u202e", "\u2066", "\x7f", "\u2028", "\U000e0001"]
)
def test_what_steers_a_terminal_is_escaped_in_json_and_the_same_when_read(steering: str) -> None:
    for indent in (None, 2):
        written = to_json({"comm": f"a{steering}b"}, indent)
        assert written.replace("\n", "").isprintable()
        assert json.loads(written) == {"comm": f"a{steering}b"}


@given(ANY_TEXT)
def test_nothing_in_a_name_reaches_the_terminal_as_a_control_character(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("größe → ok", "größe → ok"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\nb", r"a\nb")],
)
def test_readable_text_stays_and_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
