"""Signs with a command of the vendor, so that a private key may stay in an HSM."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from dataclasses import dataclass

import typer

from agent.errors import LicetError
from agent.license.envelope import SIGNATURE_BYTES
from agent.license.values import PinnedKey
from agent.wording import counted

WITHIN_S = 300.0
"""A person may have to enter a PIN, or touch a token."""


@dataclass(frozen=True, slots=True)
class ExternalSigner:
    """`pinned`: the key that the command is said to sign with."""

    command: tuple[str, ...]
    pinned: PinnedKey
    within_s: float = WITHIN_S

    @property
    def name(self) -> str:
        return self.command[0]

    @property
    def public_key(self) -> bytes:
        return self.pinned.public_key

    def sign(self, message: bytes) -> bytes:
        """What the command writes: 64 bytes. Raises LicetError for anything else."""
        # a file rather than a pipe: `openssl pkeyutl` asks for its size
        with open(os.memfd_create("licet-message"), "w+b") as file:
            file.write(message)
            file.seek(0)
            try:
                # stderr and the terminal stay its own: it may ask for a PIN
                with subprocess.Popen(self.command, stdin=file, stdout=subprocess.PIPE) as child:
                    try:
                        signature = self._read(child)
                    finally:
                        child.kill()
            except OSError as error:
                raise self._failed(f": {error.strerror}") from error
        if len(signature) > SIGNATURE_BYTES:
            raise self._failed(f" wrote more than {SIGNATURE_BYTES} bytes: write a raw signature, not hex")
        if child.returncode:
            by_signal = child.returncode < 0
            ended = f"signal {-child.returncode}" if by_signal else f"exit code {child.returncode}"
            raise self._failed(f" ended with {ended}")
        if len(signature) != SIGNATURE_BYTES:
            wrote = counted(len(signature), "byte")
            raise self._failed(f" wrote {wrote}: a signature of {SIGNATURE_BYTES} raw bytes is expected")
        return signature

    def _read(self, child: subprocess.Popen[bytes]) -> bytes:
        """What the command writes, up to one byte too many. Waits for its end. Raises LicetError."""
        deadline_s = time.monotonic() + self.within_s
        assert child.stdout
        output = child.stdout.fileno()
        waiting = select.poll()
        waiting.register(output, select.POLLIN)
        found = b""
        while len(found) <= SIGNATURE_BYTES:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not waiting.poll(left_s * 1000):
                raise self._late()
            piece = os.read(output, SIGNATURE_BYTES + 1 - len(found))
            if not piece:
                self._wait(child, deadline_s - time.monotonic())
                break
            found += piece
        return found

    def _wait(self, child: subprocess.Popen[bytes], left_s: float) -> None:
        try:
            child.wait(max(left_s, 0.001))
        except subprocess.TimeoutExpired as error:
            raise self._late() from error

    def _late(self) -> LicetError:
        return self._failed(f" did not end within {self.within_s:g} s")

    def _failed(self, why: str) -> LicetError:
        return LicetError(f"--sign-with: {self.name}{why}; nothing was written")


def external_signer(command: str, pinned: PinnedKey) -> ExternalSigner:
    """Raises BadParameter for a command that a shell could not read either."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise typer.BadParameter(f"{error}: quote it as for a shell", param_hint="--sign-with") from None
    if not words:
        raise typer.BadParameter("it is empty: name a command", param_hint="--sign-with")
    return ExternalSigner(tuple(words), pinned)
