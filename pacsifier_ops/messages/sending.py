"""Sends the messages that wait, reminds of open questions, and makes the message on a night.

A recipient gets a message once: who has got it is noted in its file. Where the process is killed after a mail server
has taken a message and before that is noted, it is sent a second time, with the same Message-ID: twice is better than
never. A message that cannot be sent is tried again each time, for three days.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.telling import DIGEST, EXPIRING, QUESTION, REMINDER, is_mail, recipients
from pacsifier_ops.messages import Message, NotSent, digest, outbox
from pacsifier_ops.messages.text import GOES_ON, WAITS, Letter, letter
from pacsifier_ops.nightly import night_of
from pacsifier_ops.state.leases import LeaseBusy, shared

#: Time for which a message that cannot be sent is tried again.
LONGEST = dt.timedelta(days=3)
#: A question is told to expire so long before, or at half its time if that is less.
LAST_CALL = dt.timedelta(hours=24)

#: Stands for the channel of all mail addresses.
MAIL = "mail"


class Post(Protocol):
    """The ways by which letters leave."""

    def check(self, recipient: str) -> None:
        """Raise NotSent if a recipient can certainly not be reached."""

    def send(self, recipient: str, letter: Letter) -> None:
        """Send a letter. Raises NotSent."""


class States(digest.States, Protocol):
    """What Airflow knows of runs and tasks."""

    def asks(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """Return whether a task has not ended."""


@dataclass
class Sent:
    """What became of messages.

    Attributes:
        sent: letters that were sent.
        given_up: messages that were not sent to all, and wait no more.
        problems: why letters were not sent, and how many for each reason.
    """

    sent: int = 0
    given_up: int = 0
    problems: dict[str, int] = field(default_factory=dict)

    def problem(self, why: str) -> None:
        """Count a problem."""
        self.problems[why] = self.problems.get(why, 0) + 1


def send_all(post: Post, states: States, base_url: str, moment: dt.datetime) -> Sent:
    """Send what waits. If another process does, nothing is done.

    Args:
        post: sends a letter.
        states: what Airflow knows.
        base_url: URL of Airflow for its users.
        moment: the present time, with a zone.

    Raises:
        ConfigError: a setting is wrong.
        OSError: the state root cannot be read or written.
    """
    sent = Sent()
    with suppress(LeaseBusy), shared().acquire("messages", wait=0):
        _look_at_questions(states, moment)
        try:
            _look_at_night(states, moment)
        except OSError as error:
            sent.problem(f"the folder of the nightly runs cannot be read: {type(error).__name__}")
        _send_waiting(post, base_url, moment, sent)
    return sent


def _look_at_questions(states: States, moment: dt.datetime) -> None:
    """Forget questions that were answered, and keep messages on those that wait for long."""
    for key, question in outbox.questions().items():
        asked, until = dt.datetime.fromisoformat(question.when), dt.datetime.fromisoformat(question.until)
        if moment >= until or not states.asks(question.dag_id, question.run_id, question.task_id):
            outbox.close(question)
            continue
        if moment >= until - min(LAST_CALL, (until - asked) / 2):
            about, part = EXPIRING, key
        elif settings.remind() and (times := (moment - asked) // settings.remind()) > 0:
            about, part = REMINDER, f"{key} {times}"
        else:
            continue
        when = moment.isoformat(timespec="seconds")
        outbox.keep(replace(question, about=about, part=part, when=when, asks=key))


def _look_at_night(states: States, moment: dt.datetime) -> None:
    """Keep the messages on the last night, once it is time."""
    if (at := _digest_at()) is None:
        return
    night = (moment.astimezone(settings.timezone()).date() - dt.timedelta(days=1)).isoformat()
    if moment < digest.due(night, at) or outbox.night_told(night):
        return
    made = moment.isoformat(timespec="seconds")
    asking = {(one.dag_id, one.run_id) for one in outbox.questions().values()}
    messages = digest.of_night(night, made, states, asking)
    for message in messages:
        outbox.keep(message, anew=True)  # what a killed process has kept says less: it knew of fewer ends
    runs = [run for message in messages for run in message.runs]
    outbox.note_night(night, made, {run["run_id"] for run in runs if run["state"] not in (WAITS, GOES_ON)})


def _send_waiting(post: Post, base_url: str, moment: dt.datetime, sent: Sent) -> None:
    # In this order: a question that is asked at this moment is open before its message waits, so it is not taken for
    # one that was answered.
    waiting, open_questions = outbox.waiting(), outbox.questions()
    about, out_of_order = settings.tell_about(), _out_of_order(post, sent)
    for waits in waiting:
        message = waits.message
        if _is_held(message, moment):
            continue
        stale = _is_told_with_night(message) or _is_answered(message, open_questions)
        wanted = [] if stale or message.about not in about else _recipients(message, sent)
        words = letter(message, base_url)
        for recipient in wanted:
            if recipient in waits.got or _channel(recipient) in out_of_order:
                continue
            outbox.check(waits)
            try:
                post.send(recipient, words)
            except NotSent as error:
                sent.problem(str(error))
                out_of_order |= {_channel(recipient)} if error.of_channel else set()
            else:
                outbox.note(waits, recipient)
                sent.sent += 1
        done = set(waits.got).issuperset(wanted)
        if done or moment - dt.datetime.fromisoformat(message.when) > LONGEST:
            outbox.put_away(message)
            sent.given_up += not done


def _out_of_order(post: Post, sent: Sent) -> set[str]:
    """Return the channels of the settings that cannot be used, so that this is known before somebody is to be told."""
    found = set()
    for channel, recipient in {_channel(one): one for dag in settings.DAGS for one in settings.tell(dag)}.items():
        try:
            post.check(recipient)
        except NotSent as error:
            sent.problem(str(error))
            found.add(channel)
    return found


def _channel(recipient: str) -> str:
    return MAIL if is_mail(recipient) else recipient


def _recipients(message: Message, sent: Sent) -> list[str]:
    if message.to:
        return [message.to]
    try:
        named = recipients(message.named, "tell")
    except ConfigError as error:
        sent.problem(f"{error}; in a run of {message.dag_id}")
        named = ()
    return [*dict.fromkeys((*settings.tell(message.dag_id), *named))]


def _digest_at() -> dt.time | None:
    return settings.digest() if DIGEST in settings.tell_about() else None


def _night(message: Message) -> str:
    """Return the night whose message tells the end of the run that a message is about; empty: none does."""
    of_night = message.run_id.startswith("nightly__") and message.begun and _digest_at()
    return night_of(dt.datetime.fromisoformat(message.begun)) if of_night else ""


def _is_held(message: Message, moment: dt.datetime) -> bool:
    """Return whether the end of a run waits for the message on its night."""
    night, at = _night(message), _digest_at()
    return bool(night) and at is not None and outbox.night_told(night) is None and moment < digest.due(night, at)


def _is_told_with_night(message: Message) -> bool:
    """Return whether the message on its night has told the end of a run. It does not tell that of a later attempt."""
    told = outbox.night_told(night) if (night := _night(message)) else None
    if told is None or message.run_id not in told["ended"]:
        return False
    return dt.datetime.fromisoformat(message.when) <= dt.datetime.fromisoformat(told["made"])


def _is_answered(message: Message, open_questions: Mapping[str, Message]) -> bool:
    key = message.key if message.about == QUESTION else message.asks
    return bool(key) and key not in open_questions
