"""The policy of a run: everything that determines the result, apart from the mapping of patients to pseudonyms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.deid.identity import PATIENT_ID
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.pseudonyms.secret import Secret, project_secret

if TYPE_CHECKING:
    from pacsifier_ops.deid.devices import Catalogue
    from pacsifier_ops.deid.rules import Rules


@dataclass(frozen=True)
class Policy:
    """Everything that determines the result for an object, apart from the pseudonym of its patient.

    Attributes:
        rules: rules of the profile, and of flags that remove more than the profile does.
        catalogue: device catalogue: regions of images to black out.
        secret: secret of the project.
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
        """Build the policy of a request.

        Args:
            request: request of the run.
            secret: secret of the project, where it is stored elsewhere (see `project_secret`).

        Raises:
            ConfigError: profile, catalogue or project cannot be used.
            StorageError: the state root cannot be written.
        """
        from pacsifier_ops.deid import devices, profile
        from pacsifier_ops.deid.rules import ProfileOption

        chosen = profile.load(request.profile)
        options, site = chosen.options, chosen.site
        if request.remove_private_tags:
            options -= {ProfileOption.SAFE_PRIVATE, ProfileOption.SAFE_PRIVATE_EXTENDED}
            site = tuple(rule for rule in site if not rule.layer.private)
        if request.fuzz_acq_dates and ProfileOption.FULL_DATES in options:
            # UIDs may contain dates, which would reveal the shift.
            options = options - {ProfileOption.FULL_DATES, ProfileOption.UIDS} | {ProfileOption.MODIFIED_DATES}
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
        """Return a summary of the policy, which the output tree stores."""
        return {
            "profile": self.rules.digest,
            "devices": self.catalogue.digest,
            "project": self.secret.fingerprint,
            "delete_identifiable": str(self.delete_identifiable),
            "keep_patient_dir_names": str(self.keep_patient_dir_names),
            "identity": self.identity,
        }
