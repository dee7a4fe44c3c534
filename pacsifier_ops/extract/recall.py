"""Series that an archive must recall from slow storage, such as tape, before it can send them.

C-GET and C-MOVE have no status for this (PS3.4 C.4.2.1.5, C.4.3.1.4): such an archive does not answer, refuses, or
sends nothing or only a part. Another request at once may only start a second recall. So the series is postponed, and
requested again a few times at growing intervals.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pacsifier_ops.archive.attempts import AtNode
from pacsifier_ops.archive.find import Finder, has_none_of, listed_instances
from pacsifier_ops.base.errors import PacsError, PacsSilent
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.runs.accounts import SeriesAccount

#: Values of Instance Availability (0008,0056; PS3.3 C.4.23.1.1) for instances that must be recalled.
SLOW = ("NEARLINE", "OFFLINE")
#: Maximum number of further looks at a series. The last one is after the node's recall_wait, and each other one after
#: half the time of the next.
LOOKS = 6


class Recall:
    """Finds out during a transfer whether the archive has to recall the series.

    Attributes:
        reason: what the archive did instead of sending the series; empty if the series need not be postponed.
    """

    def __init__(self, work: AtNode, finder: Finder, planned: Planned) -> None:
        self.reason = ""
        self._work, self._finder, self._planned = work, finder, planned
        self._availability = planned.attributes.get("InstanceAvailability", "")

    def refresh(self) -> None:
        """Query the availability again if the series had to be recalled: it may be online by now."""
        if self._availability in SLOW and not self._work.is_split:
            self._availability = self._finder.availability(*self._planned.series)

    @contextmanager
    def watch(self, missing: Callable[[], Sequence[str]], missing_reason: Callable[[], str]) -> Iterator[None]:
        """Set `reason` if the archive has to recall the series that is requested in this context.

        It has to if it says so and does not send everything. It also has to if it stops answering, whatever it says:
        many archives do not know what their file system keeps on tape.

        Args:
            missing: returns what is missing after the request.
            missing_reason: returns why.

        Raises:
            PacsError: the archive failed for another reason, or does not answer C-ECHO either.
        """
        try:
            yield
            if (uids := missing()) and self._is_slow(uids):
                self.reason = self.reason or missing_reason()
        except PacsError as error:
            silent = isinstance(error, PacsSilent) and self._work.node.recall_wait > 0
            if not silent and not (error.retryable and error.of_series and self._is_slow(missing())):
                raise
            if silent:
                self._work.session.echo()  # an archive that hangs recalls nothing: then this raises
            self.reason = str(error)

    def _is_slow(self, missing: Sequence[str]) -> bool:
        """Return whether the archive says that what is missing must be recalled.

        Where another one was searched, that one knows nothing of the tapes of the one that gives the images. It counts
        only where the latter has them and does not tell.
        """
        if self._work.is_split:
            session, series = self._work.session, self._planned.series
            if has_none_of(listed_instances(session, series), missing):
                return False
            with suppress(PacsError):
                self._availability = Finder(session).availability(*series) or self._availability
        return self._availability in SLOW

    def account_reason(self, account: SeriesAccount) -> str:
        """Return the reason for the account of a postponed series."""
        of = f"{account.missing} of {account.expected} instances" if account.missing else "instances"
        says = f"the archive says {self._availability}; " if self._availability else ""
        return f"recalled, not yet there: {of} missing ({says}{self.reason}); run it again later"


def next_look(asked: Sequence[dt.datetime], wait: float) -> dt.datetime | None:
    """Return the time of the next look at a postponed series; None if there is none.

    Args:
        asked: times at which the series was requested, at least one.
        wait: seconds after the first request during which the series is looked at again; 0: it is not.
    """
    shortest = dt.timedelta(seconds=wait) / 2**LOOKS
    if len(asked) > LOOKS or asked[-1] >= asked[0] + shortest * 2**LOOKS:
        return None
    # Wait even if the archive took longer to answer than the interval.
    return max(asked[0] + shortest * 2 ** len(asked), asked[-1] + shortest)


def postpone(account: SeriesAccount, wait: float) -> None:
    """Write the time of this request and of the next look into the account of a series that is being recalled.

    Args:
        account: the account of the series.
        wait: see `next_look`.
    """
    account.recalls.append(dt.datetime.now(dt.UTC).isoformat())
    at = next_look([dt.datetime.fromisoformat(text) for text in account.recalls], wait)
    account.look_at = at.isoformat() if at else ""
