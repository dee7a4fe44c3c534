"""What a probe is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pacsifier_ops.base.options import Section
from pacsifier_ops.runs import options as common


@dataclass(frozen=True)
class ProbeRequest:
    """Which archive is asked what it can do."""

    pacs: str = common.node(section=Section.WHAT)
    config: str = common.configuration(Section.WHAT)
