"""What decides what objects of a run become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.deid.run import (
    DeidRequest,
)
from pacsifier_ops.deid.whose import PATIENT_ID
from pacsifier_ops.pseudonyms.secret import Secret, project_secret

if TYPE_CHECKING:
    from pacsifier_ops.deid.devices import Catalogue
    from pacsifier_ops.deid.rules import Rules


@dataclass(frozen=True)
class Policy:
    """All that decides what objects become, but for who their patients are.

    Attributes:
        rules: of the profile, and of flags that only ever remove more than it does.
        catalogue: what is blacked out of images.
        secret: the project's.
        delete_identifiable, keep_patient_dir_names, identity: see `run.DeidRequest`.
    """

    rules: Rules
    catalogue: Catalogue
    secret: Secret
    delete_identifiable: bool
    keep_patient_dir_names: bool
    identity: str = PATIENT_ID

    @classmethod
    def of(cls, request: DeidRequest, secret: str = "") -> Policy:
        """What a run was asked for.

        Args:
            secret: the project's, where somebody else keeps it (see `project_secret`).

        Raises:
            ConfigError: profile, catalogue or project cannot be used.
            StorageError: the state root cannot be written.
        """
        from pacsifier_ops.deid import devices, profile
        from pacsifier_ops.deid.rules import Option

        chosen = profile.load(request.profile)
        options, site = chosen.options, chosen.site
        if request.remove_private_tags:
            options -= {Option.SAFE_PRIVATE, Option.SAFE_PRIVATE_EXTENDED}
            site = tuple(rule for rule in site if not rule.layer.private)
        if request.fuzz_acq_dates and Option.FULL_DATES in options:
            # UIDs may hold dates, and with them the shift.
            options = options - {Option.FULL_DATES, Option.UIDS} | {Option.MODIFIED_DATES}
        rules = profile.compile(replace(chosen, options=options, site=site))
        return cls(
            rules,
            devices.load(Path(request.devices) if request.devices else None),
            project_secret(request.project, secret),
            request.delete_identifiable,
            request.keep_patient_dir_names,
            request.identity,
        )

    @property
    def stamp(self) -> dict[str, str]:
        """The same in short, for the output tree to tell."""
        return {
            "profile": self.rules.digest,
            "devices": self.catalogue.digest,
            "project": self.secret.fingerprint,
            "delete_identifiable": str(self.delete_identifiable),
            "keep_patient_dir_names": str(self.keep_patient_dir_names),
            "identity": self.identity,
        }
