"""Messages in words. They name DAG, project and time, and never the id of a run: somebody may have typed it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pacsifier_ops.base.telling import DIGEST, EXPIRING, FAILED, QUESTION, RELEASED, REMINDER
from pacsifier_ops.base.words import clock, plural
from pacsifier_ops.messages import Message
from pacsifier_ops.runs.folder import dag_run_name

#: States of a run of a night, beside its verdict.
NOTHING_NEW, WAITS, GOES_ON = "complete, nothing new", "waits for an answer", "goes on"

#: What a message says first. Verdicts that are not here stand for themselves.
_WORDS: Mapping[str, str] = {
    RELEASED: "data set released",
    QUESTION: "waits for your answer",
    REMINDER: "still waits for your answer",
    EXPIRING: "waits for your answer, and ends without it",
}
_FURTHER: Mapping[str, str] = {
    FAILED: "It ended without a complete account. The page says which task failed, and why.",
    "incomplete": "The report says what is missing, and why.",
    RELEASED: "Exactly the approved files are in the released folder of the study.",
}
#: Counts that say little in a message.
_LEFT_OUT = ("bytes", "seconds", "expected", "handed_on")
_NAME = re.compile(r"[a-z][a-z_]{0,39}")


@dataclass(frozen=True)
class Line:
    """A line of a letter; `link` is an address or empty."""

    text: str
    link: str = ""


@dataclass(frozen=True)
class Letter:
    """A message in words.

    Attributes:
        key: of the message; the same letter has the same.
        grave: whether somebody has to do something.
    """

    key: str
    subject: str
    lines: tuple[Line, ...]
    grave: bool = False

    @property
    def plain(self) -> str:
        """Return the lines as text."""
        return "\n".join(f"{line.text}\n  {line.link}" if line.link else line.text for line in self.lines)


def letter(message: Message, base_url: str) -> Letter:
    """Put a message into words.

    Args:
        base_url: URL of Airflow for its users.
    """
    if message.about == DIGEST:
        return _of_night(message, base_url)
    word = _WORDS.get(message.about, message.about)
    name = message.dag_id + (f", project {message.project}" if message.project else "")
    lines = [f"{name}: {word}"]
    lines += [f"It expires: {clock(message.until)}"] if message.until else []
    lines += [f"{label}: {count:,}" for label, count in _counts(message.counts)]
    lines += [_FURTHER[message.about]] if message.about in _FURTHER else []
    lines += [f"time: {clock(message.when)}"]
    grave = message.about not in ("complete", "cancelled", RELEASED)
    page = Line("The page of the run, for those who may see it:", address(base_url, message.dag_id, message.run_id))
    return Letter(message.key, f"PACSIFIER: {name}: {word}", (*map(Line, lines), page), grave)


def address(base_url: str, dag_id: str, run_id: str) -> str:
    """Return the address that leads to the page of a run. It has no id of the run, only the name of its folder."""
    dag = quote(dag_id, safe="")
    return f"{base_url.rstrip('/')}/pacsifier/go/{dag}/{quote(dag_run_name(dag_id, run_id), safe='')}"


def _counts(counts: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    for name, count in counts.items():
        said = _NAME.fullmatch(name) and type(count) in (int, float) and name not in _LEFT_OUT
        if said and (count or name == "missing"):
            yield name.replace("_", " "), count


def _of_night(message: Message, base_url: str) -> Letter:
    states = [str(run["state"]) for run in message.runs]
    sums = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
    if message.unusable:
        sums.append(f"{plural(message.unusable, 'table or project', 'tables and projects')} cannot be used")
    said = "; ".join(sums) or "nothing ran"
    lines = [Line(f"The night of {message.run_id}: {said}")]
    for run in message.runs:
        counts = "".join(f", {label} {count:,}" for label, count in _counts(run["counts"]))
        lines.append(Line(f"{run['name']}: {run['state']}{counts}", address(base_url, run["dag_id"], run["run_id"])))
    if message.unusable:
        lines.append(Line("The reasons are in reasons.txt, beside the files, in the folders rejected and projects."))
    quiet = {"complete", NOTHING_NEW, GOES_ON}
    grave = message.unusable > 0 or not quiet.issuperset(states)
    return Letter(message.key, f"PACSIFIER: night of {message.run_id}: {said}", tuple(lines), grave)
