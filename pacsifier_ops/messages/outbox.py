"""The messages that wait, those that were sent, and the questions that are open; see the package."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.files import private_folder, read_json, write_json
from pacsifier_ops.base.telling import QUESTION
from pacsifier_ops.messages import Message

log = logging.getLogger(__name__)

_WAITING, _SENT, _OPEN, _NIGHTS = "waiting", "sent", "open", "nights"


@dataclass
class Waiting:
    """A message that waits, and the recipients who have got it."""

    message: Message
    got: list[str]


def keep(message: Message, anew: bool = False) -> None:
    """Keep a message until it is sent. One that was kept before, or sent, stays as it is.

    The run that it is about must not fail by it: where the state root cannot be written, only the log has that.

    Args:
        anew: it replaces one that waits, which nobody has got.
    """
    try:
        if message.about == QUESTION:
            _write(_OPEN, _place(message), vars(message))
        # In this order: a message that is sent at this moment is moved from the one folder to the other.
        if anew or not (_path(_WAITING, message.key).exists() or _path(_SENT, message.key).exists()):
            _write(_WAITING, message.key, {**vars(message), "got": []})
    except (OSError, PacsifierError) as error:
        log.error("a message on a run could not be kept: %s", type(error).__name__)


def waiting() -> list[Waiting]:
    """Return the messages that wait, those first that are about what was first."""
    return sorted(_read(_WAITING), key=lambda one: one.message.when)


def check(waits: Waiting) -> None:
    """Check that it can be noted who gets a message. On a full disk it would be sent again and again.

    Raises:
        OSError: the state root cannot be written.
    """
    _write(_WAITING, waits.message.key, {**vars(waits.message), "got": waits.got})


def note(waits: Waiting, recipient: str) -> None:
    """Note that a recipient has got a message.

    Raises:
        OSError: the state root cannot be written.
    """
    waits.got.append(recipient)
    check(waits)


def put_away(message: Message) -> None:
    """Let a message wait no more; the same is not kept again."""
    private_folder(_path(_SENT, "").parent)
    _path(_WAITING, message.key).replace(_path(_SENT, message.key))


def questions() -> dict[str, Message]:
    """Return the open questions by key."""
    return {one.message.key: one.message for one in _read(_OPEN)}


def close(question: Message) -> None:
    """Forget an open question."""
    _path(_OPEN, _place(question)).unlink(missing_ok=True)


def night_told(night: str) -> Mapping[str, Any] | None:
    """Return when the message on a night was made (`made`), and the runs that it says the end of; None: it was not."""
    with suppress(FileNotFoundError):
        return dict(read_json(_path(_NIGHTS, night)))
    return None


def note_night(night: str, made: str, ended: Collection[str]) -> None:
    """Note that the message on a night was made.

    Args:
        ended: ids of the runs that it says the end of.
    """
    _write(_NIGHTS, night, {"made": made, "ended": sorted(ended)})


def folders() -> list[Path]:
    """Return the folders whose files are of use for some time only. A question may stay open for a year."""
    return [_path(kind, "").parent for kind in (_WAITING, _SENT, _NIGHTS)]


def _place(question: Message) -> str:
    """Return the name of the file of an open question. A task that asks again has no other question any more."""
    return replace(question, part=question.task_id).key


def _path(kind: str, key: str) -> Path:
    return settings.state_root() / "messages" / kind / f"{key}.json"


def _read(kind: str) -> Iterator[Waiting]:
    """Yield the messages of a folder. One that is damaged, or of another version, stays and keeps no other back."""
    for path in sorted(_path(kind, "").parent.glob("*.json")):
        try:
            values = dict(read_json(path))
            read = Waiting(got=values.pop("got", []), message=Message(**values))
        except (ValueError, TypeError) as error:
            log.error("messages/%s/%s cannot be read: %s; remove it", kind, path.name, type(error).__name__)
        else:
            yield read


def _write(kind: str, key: str, values: object) -> None:
    path = _path(kind, key)
    private_folder(path.parent)
    write_json(path, values)
