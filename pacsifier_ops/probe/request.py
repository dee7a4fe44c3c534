"""The request of a probe."""

from __future__ import annotations

from dataclasses import dataclass

from pacsifier_ops.base.options import Section
from pacsifier_ops.runs import options as common


@dataclass(frozen=True)
class ProbeRequest:
    """The archive to probe."""

    pacs: str = common.node(section=Section.WHAT)
    config: str = common.configuration(Section.WHAT)
