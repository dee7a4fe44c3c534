"""The operator that finds out what an archive can do."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.rights import TAKE
from pacsifier_ops.operators.base import PacsifierOperator, TalksToNode, admit, node_of
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.probe import page_of, probe_into
from pacsifier_ops.runs import people
from pacsifier_ops.runs.folder import Run


class DicomProbeOperator(TalksToNode, PacsifierOperator):
    """Find out what a PACS can do (levels, keys, limits, C-GET, C-MOVE to us) with few narrow queries; write a page."""

    ui_color = "#e8dff2"

    def work(self, run: Run, context: Any) -> dict[str, int | str]:
        """Return the number of questions and keys by result, and the path of the page.

        Raises:
            AirflowFailException: the PACS cannot be queried for studies.
        """
        from pacsifier_ops.probe.page import to_text

        check_conf(context)
        node = node_of(context["params"])
        if not isinstance(node, PacsNode):
            raise ConfigError(f"{node.name}: speaks DICOMweb, and the probe asks a PACS; use the Test button")
        people.started(run, **admit(run, context, [(TAKE, node)]))
        findings = probe_into(run, node, self.cancelled)
        self.log.info("%s", to_text(findings))
        if not findings.usable:
            question = "study" if findings.reachable else "association"
            raise AirflowFailException(f"{findings.of(question).text}; see {page_of(run)}")
        return {**findings.counts(), "page": str(page_of(run))}
