"""Series that an archive must recall from slow storage, such as tape, before it can send them.

Meanwhile it is silent, refuses, sends nothing or a part: PS3.4 C.4.2 knows no way to say *later*. To ask again at once
may only queue another recall. So such a series is put aside, and looked at again a few times, later and later.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import PacsError, PacsSilent
from pacsifier_ops.dimse.find import Finder
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.runs.accounts import SeriesAccount

#: Instance Availability (0008,0056; PS3.3 C.4.23.1.1) of what has to be recalled.
SLOW = ("NEARLINE", "OFFLINE")
#: So often a series is looked at again: the last time after the node's recall_wait, each time before after half.
LOOKS = 6


class Recall:
    """Whether an archive has to recall one series, as far as a transfer of it shows.

    Attributes:
        why: what the archive did instead of sending the series; empty where it need not be put aside.
    """

    def __init__(self, node: PacsNode, finder: Finder, planned: Planned) -> None:
        self.why = ""
        self._node, self._finder, self._planned = node, finder, planned
        self._availability = planned.attributes.get("InstanceAvailability", "")

    def look(self) -> None:
        """Ask the archive once more for what it said had to be recalled; it may be there by now."""
        if self._availability in SLOW:
            self._availability = self._finder.availability(*self._planned.series)

    @contextmanager
    def watched(self, missing: Callable[[], Sequence[str]], why: Callable[[], str]) -> Iterator[None]:
        """Find out whether the archive that is asked for the series herein has to recall it.

        It has to where it says so and does not send everything. Or it falls silent, whatever it says: many an archive
        does not know what its file system keeps on tape.

        Args:
            missing, why: what is missing afterwards, and what the archive said of that.

        Raises:
            PacsError: the archive failed for another reason, or answers nothing at all any more.
        """
        slow = self._availability in SLOW
        try:
            yield
            if slow and missing():
                self.why = self.why or why()
        except PacsError as error:
            silent = isinstance(error, PacsSilent) and self._node.recall_wait > 0
            if not silent and not (slow and error.retryable and error.of_series):
                raise
            if silent:
                self._finder.session.echo()  # one that hangs recalls nothing: this fails, and ends it all
            self.why = str(error)

    def told(self, account: SeriesAccount) -> str:
        """The reason of a series that was put aside."""
        of = f"{account.missing} of {account.expected} instances" if account.missing else "instances"
        says = f"the archive says {self._availability}; " if self._availability else ""
        return f"recalled, not yet there: {of} missing ({says}{self.why}); run it again later"


def next_look(asked: Sequence[dt.datetime], wait: float) -> dt.datetime | None:
    """When a series is to be looked at again; None where it is not.

    Args:
        asked: when the archive was asked for it, at least once.
        wait: seconds from then on within which it is looked at again; 0 is not at all.
    """
    share = dt.timedelta(seconds=wait) / 2**LOOKS
    if len(asked) > LOOKS or asked[-1] >= asked[0] + share * 2**LOOKS:
        return None
    # Never at once, however long the archive took to answer.
    return max(asked[0] + share * 2 ** len(asked), asked[-1] + share)


def put_aside(account: SeriesAccount, wait: float) -> None:
    """Note in its account that a series is being recalled, and when it is looked at again."""
    account.recalls.append(dt.datetime.now(dt.UTC).isoformat())
    at = next_look([dt.datetime.fromisoformat(text) for text in account.recalls], wait)
    account.look_at = at.isoformat() if at else ""
