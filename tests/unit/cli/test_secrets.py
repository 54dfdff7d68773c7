"""What a bug report leaves out, and what it keeps."""

import pytest

from agent.cli.secrets import without_secrets


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("password: hunter2", "password: [left out]"),
        ("db_password = 'hunter 2' # old", "db_password = [left out] # old"),
        ('{"api_key": "abc", "id": 7}', '{"api_key": [left out], "id": 7}'),
        ("{token: abc, port: 5432}", "{token: [left out], port: 5432}"),
        ("psql --password hunter2 -h db", "psql --password [left out] -h db"),
        ("postgres://ann:hunter2@db/orders", "postgres://[left out]@db/orders"),
        ("Authorization: Bearer abc.def", "Authorization: [left out]"),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nrest", "[left out]\nrest"),
        (r'{"args":["psql","-c \"] \\","x"],"pid":7}', '{"args":["[left out]"],"pid":7}'),
        ('"args": [\n  "psql",\n  "x"\n ]', '"args": ["[left out]"]'),
    ],
)
def test_secrets_are_left_out(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize(
    "text",
    ["{exe: /usr/bin/psql, user: billing}", '"args": []', "http://127.0.0.1:9477/metrics", "keys: 12", "a@b"],
)
def test_what_a_report_is_for_is_kept(text: str) -> None:
    assert without_secrets(text) == text
