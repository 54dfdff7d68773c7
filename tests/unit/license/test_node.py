"""Node ids: stable, confidential, and never those that many hosts share."""

from __future__ import annotations

import hashlib

import pytest

from agent.license.node import host_key_node, machine_id_node, matches, product_node
from agent.license.values import NodeLock

MACHINE = "5f0c2b1a9d8e4f7360718293a4b5c6d7"
PRODUCT = "4C4C4544-0034-3510-8052-B4C04F4A4E32"


def test_ids_never_change() -> None:
    """A license names them: other ids would lock out every host."""
    assert machine_id_node(MACHINE) == "mi:44cd55759cdc6754890d786414cfaa7b1ce99d7d45eeb9fbf3ca8054ced6d00c"
    assert product_node(PRODUCT) == "dm:efe4e6507388ef1d364015214be638a97467058261561ed96c9b10ce7f88d5fb"
    assert host_key_node(bytes(range(32))) == f"hk:{hashlib.sha256(bytes(range(32))).hexdigest()}"


def test_an_id_does_not_tell_what_it_comes_from() -> None:
    plain = {hashlib.sha256(text.encode()).hexdigest() for text in (MACHINE, MACHINE + "\n")}
    assert machine_id_node(MACHINE)[3:] not in plain
    assert MACHINE not in machine_id_node(MACHINE)


def test_the_notation_makes_no_other_id() -> None:
    assert machine_id_node(f"{MACHINE}\n") == machine_id_node(MACHINE.upper()) == machine_id_node(MACHINE)
    assert (
        product_node(PRODUCT.lower().replace("-", ""))
        == product_node(f" {PRODUCT}\n")
        == product_node(PRODUCT)
    )
    assert product_node(MACHINE)[3:] == machine_id_node(MACHINE)[3:]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "\n",
        "uninitialized",
        "Not Settable",
        MACHINE[:-1],
        f"{MACHINE}0",
        f"{MACHINE}\n{MACHINE}",
        f"{MACHINE[:-1]}g",
        f"{MACHINE[:-1]}\u0664",
        f"0x{MACHINE[2:]}",
        "5f-0c2b1a9d8e4f7360718293a4b5c6d7",
        "0" * 32,
        "f" * 32,
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "00000000-0000-0000-0000-000000000000",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
        "00000000-0000-0000-0000-000000000001",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90AB-CDDEEFAABBCC",
        "78563412-3412-7856-90ab-cddeefaabbcc",
        "01234567-89ab-cdef-0123-456789abcdef",
        "00112233-4455-6677-8899-AABBCCDDEEFF",
        "4C4C4544-0000-2010-8020-80C04F202020",
    ],
)
def test_what_identifies_no_host_is_refused(value: str) -> None:
    for node in (machine_id_node, product_node):
        with pytest.raises(ValueError, match=r"is not 32 hex digits|is a placeholder") as raised:
            node(value)
        assert not value.strip() or value.strip() not in str(raised.value)


MI, DM, HK = (f"{kind}:{'a' * 64}" for kind in ("mi", "dm", "hk"))


@pytest.mark.parametrize(
    ("lock", "ids", "is_match"),
    [
        (None, [], True),
        (None, [MI], True),
        (NodeLock((MI, HK)), [], False),
        (NodeLock((MI, HK)), [DM], False),
        (NodeLock((MI, HK)), [DM, HK], True),
        (NodeLock((MI, HK), 2), [HK], False),
        (NodeLock((MI, HK), 2), [HK, HK], False),
        (NodeLock((MI, HK), 2), [HK, MI], True),
        (NodeLock((MI, DM, HK), 2), [HK, MI], True),
        (NodeLock((f"dm:{MI[3:]}",)), [MI], False),
    ],
)
def test_a_lock_holds_where_enough_ids_are_the_hosts(
    lock: NodeLock | None, ids: list[str], is_match: bool
) -> None:
    assert matches(lock, ids) is is_match
