"""The command `licet license request`."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

import agent
from agent.cli.license.facts import INDENT, request_facts
from agent.cli.license.writing import READABLE, out_option, place_of, plain_name, refuse_existing, write_once
from agent.cli.output import print_facts
from agent.cli.running import Config, settings_of
from agent.config import Settings
from agent.errors import LicetError
from agent.license.envelope import read_envelope, write_envelope
from agent.license.host_key import KEY, HostKey, load_host_key, replace_host_key, sign_as_host
from agent.license.keys import kid_of
from agent.license.node import host_key_node
from agent.license.payload import read_license
from agent.license.request import REQUEST_TYPE, HostRequest, request_payload
from agent.license.values import (
    LICENSE_TYPE,
    MOST_DOCUMENT_BYTES,
    Envelope,
    LicenseDocument,
    Malformed,
    Signature,
)
from agent.license.verification import Check, NoVerdict, verify
from agent.observe.node_ids import read_node_ids
from agent.system import files

ON_A_CLONE = "mi: is of /etc/machine-id, dm: of the hardware: on a clone both may still be the original's"


def request(
    config: Config = None,
    out: Annotated[
        Path | None,
        out_option("The file, or a folder; default: licet-request-HOST.json here."),
    ] = None,
    new_host_key: Annotated[
        bool,
        typer.Option(
            "--new-host-key", help="Give this host another key, as a clone needs. The old one is gone."
        ),
    ] = False,
) -> None:
    """Write a file for the vendor: what identifies this host, signed by the host's own key.

    The operator's side, as root. The command prints what is in the file. Nothing is sent anywhere."""
    settings = settings_of(config)
    file = place_of(out, f"licet-request-{plain_name(platform.node())}.json")
    refuse_existing(file)
    key = _new_key(settings) if new_host_key else _key(settings)
    ids = read_node_ids(settings.paths.proc)
    made = HostRequest(
        hostname=platform.node() or "unknown",
        requested_at=datetime.now(UTC).replace(microsecond=0),
        licet=agent.__version__,
        kernel=platform.release(),
        node_ids=(*ids.found.values(), host_key_node(key.public_key)),
        public_key=key.public_key,
    )
    write_once(file, _signed(made, key), READABLE)
    facts = request_facts(made)
    facts += [(f"no {kind}", why) for kind, why in ids.missing.items()]
    print_facts([*facts, ("file", f"{file}: send it to the vendor yourself")], INDENT)


def _signed(made: HostRequest, key: HostKey) -> bytes:
    """The content of the file, in which the signature was verified."""
    message = Envelope(REQUEST_TYPE, request_payload(made), ()).message
    try:
        signature = Signature(kid_of(key.public_key), sign_as_host(key.private_pem, message))
        content = write_envelope(Envelope(REQUEST_TYPE, request_payload(made), (signature,)))
        (holds,) = verify([Check(key.public_key, read_envelope(content).message, signature.value)])
    except NoVerdict as error:
        raise LicetError(f"the request cannot be signed: {error}") from error
    if not holds:
        raise LicetError("the request cannot be signed: its signature does not verify")
    return content


def _key(settings: Settings) -> HostKey:
    with _errors_told(settings.paths.state):
        return load_host_key(settings.paths.state)


def _new_key(settings: Settings) -> HostKey:
    """Replace the key, and say what follows for licenses that are locked to the old one."""
    folder = settings.paths.state
    with _errors_told(folder):
        old = _old_node(folder)
        locked = list(_locked_to(old, settings.paths.licenses)) if old else []
        key = replace_host_key(folder)
    facts = [("new key", host_key_node(key.public_key)), ("old key", f"{old}, which is gone" if old else "")]
    facts.append(("clone", ON_A_CLONE))
    for file, one in locked:
        which = f"{file.name} ({one.id} serial {one.serial})"
        facts.append(("locked", f"{which} names the old key: ask its vendor for another"))
    facts.append(("daemon", "takes the new key at its next reload: systemctl reload licet"))
    print_facts([fact for fact in facts if fact[1]], INDENT)
    print()
    return key


@contextlib.contextmanager
def _errors_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise LicetError(f"{folder}: only root can read the host's key: run it as root") from error
    except OSError as error:
        raise LicetError(f"{error.filename or folder}: {error.strerror}") from error
    except (ValueError, NoVerdict) as error:
        raise LicetError(str(error)) from error


def _old_node(folder: Path) -> str:
    """The node id of the key that is there; "" if there is none, or none that can be used."""
    if not (folder / KEY).exists():
        return ""
    try:
        return host_key_node(load_host_key(folder).public_key)
    except ValueError:
        return ""


def _locked_to(node: str, folder: Path) -> Iterator[tuple[Path, LicenseDocument]]:
    """Documents, verified or not, that name this node id."""
    for file in sorted(folder.glob("*.json")):
        try:
            envelope = read_envelope(files.read_bytes(file, MOST_DOCUMENT_BYTES + 1))
            document = read_license(envelope.payload) if envelope.payload_type == LICENSE_TYPE else None
        except (OSError, Malformed):
            continue
        if document and document.node_lock and node in document.node_lock.any_of:
            yield file, document
