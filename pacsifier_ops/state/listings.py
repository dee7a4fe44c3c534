"""What an archive has listed of a series, kept from run to run, so that only series that have changed are listed again.

The list of the instances of a series costs the archive and us an answer for each instance. Their number costs nothing:
the archive gives it with the series (NumberOfSeriesRelatedInstances (0020,1209), PS3.4 C.3.4). A series is as it was
listed if all of this holds: the archive gives the same number, the number was that of its list then, exactly the listed
instances are here or were handed on, and the list is not older than `settings.verify_days`.

An archive that exchanges an instance for another one keeps the number. That is found when the series is listed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.files import private_folder, read_json, storage_errors, write_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.facts import facts_folder, identity_at


class KeptListing:
    """What an archive has listed of a series. It belongs to the facts of the tree, and `forget_facts` forgets it.

    Args:
        root: the tree.
        archives: `key` of the archive that is asked, and of the one that gives the images.
        series: the series.
    """

    def __init__(self, root: Path, archives: Sequence[str], series: SeriesId) -> None:
        self._path = facts_folder(root) / "listed" / f"{series.digest}.json"
        self._whose = [__version__, *archives, str(series)]

    def holds(self, number: int | None, here: Collection[str]) -> bool:
        """Return whether the archive would list exactly these instances.

        Args:
            number: of instances, as the archive gives it now; None: it gives none.
            here: SOP Instance UIDs of the instances that need not be fetched.

        Raises:
            ConfigError: see `settings.verify_days`.
        """
        if number is None or number != len(here):
            return False
        with suppress(OSError, ValueError, TypeError, KeyError):  # what is lost or damaged is listed again
            kept = read_json(self._path)
            age = time.time() - kept["since"]
            return 0 <= age < settings.verify_days() * 86400 and kept["listing"] == self._listing(here)
        return False

    @property
    def since(self) -> float | None:
        """Return when the archive was asked for the list that is kept, in seconds since the epoch; None: none is."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            return float(read_json(self._path)["since"])
        return None

    @property
    def seen(self) -> list[int]:
        """Return the identity of the file with the list, see `facts.identity_of`; empty if there is none."""
        return identity_at(self._path)

    def forget(self) -> None:
        """Forget what the archive has listed, before it is asked again: a later list counts, also one that is not kept.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            self._path.unlink(missing_ok=True)

    def keep(self, listed: Collection[str], since: float) -> None:
        """Keep what the archive has listed.

        Args:
            listed: SOP Instance UIDs.
            since: time before the archive was asked, in seconds since the epoch.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            private_folder(self._path.parent)
            write_json(self._path, {"since": since, "listing": self._listing(listed)})

    def _listing(self, uids: Collection[str]) -> str:
        return hashlib.sha256("\n".join([*self._whose, *sorted(uids)]).encode()).hexdigest()
