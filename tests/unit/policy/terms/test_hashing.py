"""Without the key nobody makes two names with one hash; and what versions before have hashed is found."""

from __future__ import annotations

import os
import random

import pytest

from agent.kernel.tables.hash_of_abi_1 import path_hash_of_abi_1
from agent.policy.terms.hashing import path_hash, string_hash, template_hash

SEEDS = [random.Random(number).getrandbits(64) for number in range(300)]
NAME = b"a-name-of-24-bytes-in-it"


def changed(name: bytes, *bits: int) -> bytes:
    made = bytearray(name)
    for bit in bits:
        made[bit // 8] ^= 1 << bit % 8
    return bytes(made)


def differences(one: bytes, other: bytes) -> set[int]:
    """Of their hashes, under each key."""
    first, second = os.fsdecode(one), os.fsdecode(other)
    return {string_hash(first, seed) ^ string_hash(second, seed) for seed in SEEDS}


@pytest.mark.parametrize("bit", range(64))
def test_what_a_difference_does_to_the_hash_depends_on_the_key(bit: int) -> None:
    """Or a second one could be chosen that takes it back."""
    assert len(differences(NAME, changed(NAME, bit))) == len(SEEDS)


@pytest.mark.parametrize("bit", range(8))
def test_no_second_difference_takes_the_first_one_back(bit: int) -> None:
    """In 0.1.0, bit 7 of bytes 7, 11 and 15 did under every key, and bit 6 under every second."""
    for places in ((7, 11, 15), (7, 15), (7, 11), (7, 15, 19, 23), (3, 7), (0, 8), (7, 8)):
        other = changed(NAME, *(8 * place + bit for place in places))
        assert 0 not in differences(NAME, other), places


def test_paths_that_had_one_hash_have_two() -> None:
    one = "/opt/aaaaaaaapppppppp/tool"
    likely, certain = "/opt/aaaaaaa!ppp0ppp0/tool", os.fsdecode(b"/opt/aaaaaaa\xe1ppp\xf0ppp\xf0/tool")
    before = [path_hash_of_abi_1(likely, seed) == path_hash_of_abi_1(one, seed) for seed in SEEDS]
    assert 100 < sum(before) < 200
    assert all(path_hash_of_abi_1(certain, seed) == path_hash_of_abi_1(one, seed) for seed in SEEDS)
    for seed in SEEDS:
        assert len({path_hash(path, seed) for path in (one, likely, certain)}) == 3


def test_names_of_one_template_have_its_hash_and_others_another() -> None:
    assert template_hash("app@*.service", 1) == template_hash("app@*.service", 1)
    assert len({template_hash(f"{name}@*.service", 1) for name in ("app", "apq", "ap")}) == 3
