"""The child that verifies and signs: right answers, and no verdict where it fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from agent.license import child
from agent.license.host_key import host_key_of, new_host_key, sign_as_host
from agent.license.signatures import new_private_key, private_pem, public_bytes, sign
from agent.license.verification import Check, NoVerdict, verify
from tests.fixtures.waiting import wait_for

IDENTITY = bytes([1, *bytes(31)])
ORDER = (1 << 252) + 27742317777372353535851937790883648493
"""Of the base point (RFC 8032, section 5.1)."""

# RFC 8032, section 7.1: secret key, public key, message, signature of TEST 1 to 3 and of TEST SHA(abc).
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]


def in_python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def checks(count: int = 1) -> list[Check]:
    key = new_private_key()
    signature = sign(key, b"message")
    return [Check(public_bytes(key), b"message", signature)] * count


def test_the_vectors_of_the_rfc_hold() -> None:
    asked = [Check(*(bytes.fromhex(part) for part in vector)) for vector in VECTORS]
    changed = [Check(one.public_key, one.message + b"\0", one.signature) for one in asked]
    assert verify([*asked, *changed]) == [True] * 4 + [False] * 4


def test_each_check_has_its_answer() -> None:
    key, other = new_private_key(), new_private_key()
    signature = sign(key, b"message")
    assert verify(
        [
            Check(public_bytes(key), b"message", signature),
            Check(public_bytes(other), b"message", signature),
            Check(public_bytes(key), b"", signature),
            Check(public_bytes(key), b"massage", signature),
            Check(public_bytes(key), b"message", bytes(64)),
            Check(public_bytes(key), b"message", signature[:-1]),
            Check(public_bytes(key), b"message", signature + b"\0"),
            Check(public_bytes(key)[:-1], b"message", signature),
            Check(b"", b"message", b""),
            Check(public_bytes(key), b"message", signature),
        ]
    ) == [True, *[False] * 8, True]


def test_an_empty_message_first_is_no_message_left_out() -> None:
    key = new_private_key()
    assert verify([Check(public_bytes(key), b"", sign(key, b""))]) == [True]


def test_nothing_is_asked_about_nothing() -> None:
    assert verify([], start=["/nonexistent"]) == []


def test_a_key_with_which_anybody_can_sign_verifies_nothing() -> None:
    assert verify([Check(IDENTITY, b"anything", IDENTITY + bytes(32))]) == [False]


def test_a_signature_has_one_form() -> None:
    """The same S with the group's order added would verify, too, where its range is not checked."""
    [check] = checks()
    s = int.from_bytes(check.signature[32:], "little") + ORDER
    other = check.signature[:32] + s.to_bytes(32, "little")
    assert verify([check, Check(check.public_key, check.message, other)]) == [True, False]


def test_the_largest_documents_are_verified_in_several_children() -> None:
    key = new_private_key()
    messages = [bytes([number]) * (64 << 10) for number in range(200)]
    asked = [Check(public_bytes(key), message, sign(key, message)) for message in messages]
    asked[150] = Check(public_bytes(key), messages[150], asked[149].signature)
    assert verify(asked) == [number != 150 for number in range(200)]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("pass", "0 answers to 3"),
        ("print('true\\ntrue')", "2 answers to 3"),
        ("print('true\\n' * 3 + 'true')", "4 answers to 3"),
        ("print('true\\n\\ntrue')", "no answer that can be read"),
        ("print('yes\\nyes\\nyes')", "no answer that can be read"),
        ("print('\\xff\\n' * 3)", "no answer that can be read"),
        ("print('[' * 100000)", "no answer that can be read"),
        ("print('1\\n1\\n1')", "neither true nor false"),
        ("print('\"true\"\\n' * 2 + 'true')", "neither true nor false"),
        ("print('[true]\\n' * 2 + 'null')", "neither true nor false"),
        ("while True: print('true')", "wrote more than"),
        ("import sys; [sys.stderr.write('no ' * 1000) for _ in range(1000)]", "wrote more than"),
        ("import sys; print('true\\n' * 2 + 'true'); sys.exit(3)", "failed: exit code 3"),
        ("import sys; print('true\\n' * 2 + 'true'); sys.exit('a reason')", "failed: a reason"),
        (
            "import os; print('true\\n' * 2 + 'true', flush=True); os.kill(os.getpid(), 15)",
            "killed by signal 15",
        ),
    ],
)
def test_other_answers_are_no_verdict(program: str, why: str) -> None:
    with pytest.raises(NoVerdict, match=why):
        verify(checks(3), start=in_python(program))


def test_a_verifier_that_is_missing_is_no_verdict() -> None:
    with pytest.raises(NoVerdict, match="cannot be started: No such file"):
        verify(checks(), start=["/nonexistent/python3"])
    with pytest.raises(NoVerdict, match=r"failed: .*No module named agent\.license\.missing"):
        verify(checks(), start=child.command("agent.license.missing"))


@pytest.mark.parametrize(
    "program",
    [
        "import signal; signal.pause()",
        "import os, signal; os.close(1); os.close(2); signal.pause()",
        "import signal; print('true', flush=True); signal.signal(15, signal.SIG_IGN); signal.pause()",
    ],
)
def test_a_verifier_that_is_late_is_no_verdict_and_is_ended(program: str) -> None:
    with pytest.raises(NoVerdict, match=r"did not end within 0\.5 s"):
        verify(checks(), 0.5, start=in_python(program))
    assert children(program) == []


def test_a_verifier_that_is_killed_is_no_verdict() -> None:
    """With as much to do as one child gets, killed as soon as it is there."""
    reasons: list[str] = []

    def ask() -> None:
        try:
            verify(checks(4096))
        except NoVerdict as error:
            reasons.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    [pid] = wait_for(lambda: children(child.MODULE), "the child runs")
    os.kill(pid, signal.SIGKILL)
    asking.join()
    assert reasons == ["the verifier was killed by signal 9"]


def test_the_environment_leads_to_no_other_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cryptography", "agent", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('taken in')")
    (tmp_path / "openssl.cnf").write_text("openssl_conf = nothing\n[")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json/__init__.py"))
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "openssl.cnf"))
    assert verify(checks()) == [True]


def test_what_is_no_job_ends_the_child() -> None:
    for job, why in (
        ({"a": 1}, "'sign'"),
        ({"verify": "zz", "signature": ""}, "hexadecimal"),
        ([], "verifier"),
    ):
        with pytest.raises(NoVerdict, match=why):
            child.run([job], 30)
    with pytest.raises(NoVerdict, match="a job of more than"):
        child.run([{"verify": "00" * (256 << 10)}], 30)


def test_the_host_key_signs() -> None:
    key = new_host_key()
    assert host_key_of(key.private_pem) == key
    assert new_host_key() != key
    signature = sign_as_host(key.private_pem, b"message")
    assert verify([Check(key.public_key, b"message", signature)]) == [True]
    assert "PRIVATE" not in repr(key)


def test_a_file_without_a_host_key_is_told_from_no_verdict() -> None:
    encrypted = private_pem(new_private_key(), b"secret")
    for content, why in ((b"", "PEM"), (b"\xff", "PEM"), (b"PEM\n" * 9, "PEM"), (encrypted, "a passphrase")):
        with pytest.raises(ValueError, match=why):
            host_key_of(content)
        with pytest.raises(ValueError, match=why):
            sign_as_host(content, b"message")


def children(argument: str) -> list[int]:
    """Pids of this process's children that have this argument."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            arguments = stat.with_name("cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and argument.encode() in arguments:
            found.append(int(stat.parent.name))
    return found
