"""Messages to people: how runs ended, questions that wait, and what became of a night. Counts and a link only.

Whoever notices something keeps a message (`outbox.keep`), which costs one small file and changes nothing for the run.
One task sends what waits (`sending.send_all`), and tries again what could not be sent. These files of the state root
hold what is known:

| file                          | content                                                              |
|-------------------------------|----------------------------------------------------------------------|
| messages/waiting/<key>.json   | a message, and who has got it so far                                 |
| messages/sent/<key>.json      | one that all have got, or that nobody is to get                      |
| messages/open/<key>.json      | a question that nobody has answered yet, as its task asked last      |
| messages/nights/<night>.json  | when the message on a night was made, and the ended runs in it       |

The key is made of what the message is about, so what is noticed twice is kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.base.errors import PacsifierError


class NotSent(PacsifierError):
    """A message could not be sent. The text says why, without addresses and secrets.

    Attributes:
        of_channel: whether others by the same channel would fail as well.
    """

    retryable = True

    def __init__(self, text: str, of_channel: bool = False) -> None:
        super().__init__(text)
        self.of_channel = of_channel


@dataclass(frozen=True)
class Message:
    """A message, before it is put into words.

    Attributes:
        about: one of `telling.ABOUT`.
        dag_id, run_id: of the DAG run.
        part: tells messages of a run on the same matter apart: the number of the attempt; of a question, its task, a
            blank, and that number.
        when: time of what it is about, ISO 8601.
        begun: time for which the run was started, ISO 8601 or empty.
        counts: numbers by name.
        project: of a study; empty: none.
        named: the recipients that the run names, as text; see `telling.recipients`.
        until: when a question expires, ISO 8601 or empty.
        asks: key of the question that a reminder is of.
        to: the only recipient; empty: those of the settings and of the run.
        runs: of a night, see `digest`: name, DAG, run, state and counts of each run.
        unusable: number of projects and submissions of a night that could not be used.
    """

    about: str
    dag_id: str
    run_id: str
    part: str = ""
    when: str = ""
    begun: str = ""
    counts: Mapping[str, int | float] = field(default_factory=dict)
    project: str = ""
    named: str = ""
    until: str = ""
    asks: str = ""
    to: str = ""
    runs: Sequence[Mapping[str, Any]] = ()
    unusable: int = 0

    @property
    def key(self) -> str:
        """Name of the message."""
        parts = "\n".join((self.about, self.dag_id, self.run_id, self.part, self.to))
        return hashlib.sha256(parts.encode(errors="replace")).hexdigest()[:32]

    @property
    def task_id(self) -> str:
        """Return the task that asks."""
        return self.part.partition(" ")[0]
