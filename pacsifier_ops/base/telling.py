"""What people are told of, and who: mail addresses, and ids of connections to other channels."""

from __future__ import annotations

import re

from pacsifier_ops.base.errors import ConfigError

#: What messages are about, beside the verdicts of runs: a run that ended without an account, or whose account does not
#: balance; a data set that was released; a question to a person, twice more while nobody answers; a night.
FAILED, RELEASED, QUESTION, REMINDER, EXPIRING, DIGEST = FURTHER = (
    *("failed", "released", "question", "reminder", "expiring", "digest"),
)
#: Everything that messages are about.
ABOUT = ("complete", "incomplete", "rejected", "cancelled", *FURTHER)

#: In place of recipients: nobody is told.
NOBODY = "nobody"

#: A mail address in its usual form (RFC 5321, 4.1.2, without quotes), or the id of a connection.
RECIPIENT = r"[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*|[A-Za-z0-9_.-]{1,200}"


def recipients(text: str, what: str) -> tuple[str, ...]:
    """Return the recipients in a text, which are separated by commas; none for `nobody`. Nobody is named twice.

    Args:
        what: name of the setting or the key, for the error.

    Raises:
        ConfigError: one is neither a mail address nor the id of a connection.
    """
    found = [one for part in re.split("[,;]", text) if (one := part.strip())]
    if wrong := [str(place) for place, one in enumerate(found, 1) if not re.fullmatch(RECIPIENT, one)]:
        raise ConfigError(
            f"{what}: recipient {', '.join(wrong)} is neither a mail address nor the id of a connection of type "
            "message_channel; separate several by commas"
        )
    return () if found == [NOBODY] else tuple(dict.fromkeys(found))


def is_mail(recipient: str) -> bool:
    """Return whether a recipient is a mail address."""
    return "@" in recipient
