"""A study in this process, by the steps that its DAG calls, against an embedded PACS."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.config import Node, PacsNode
from pacsifier_ops.convert import steps as conversion
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.deid import steps as deid
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.extract import steps as extraction
from pacsifier_ops.extract.requests import reading_options
from pacsifier_ops.extract.run import Request
from pacsifier_ops.handover import dicomdir, dumps, karnak
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.handover.dumps import DumpsRequest
from pacsifier_ops.handover.karnak import KarnakRequest
from pacsifier_ops.pseudonyms import steps as pseudonyms
from pacsifier_ops.pseudonyms.run import PseudonymRequest
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.study import steps
from pacsifier_ops.study.cohort import search_of
from pacsifier_ops.study.release import begin_sending, listing_of, release, stock_of
from pacsifier_ops.study.run import (
    ANONYMIZE,
    CONVERT,
    DICOMDIR,
    DUMPS,
    EXTRACT,
    KARNAK,
    KARNAK_UPLOAD,
    PSEUDONYMS,
    RELEASE_TO,
    UPLOAD,
    stages_of,
)
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.command import write_table


@dataclass
class StudyRun:
    """One run of a study; each method is a part of it."""

    node: PacsNode
    data: Path
    rows: list[dict[str, str]]
    given: dict[str, Any] = field(default_factory=dict)
    run: Run = field(default_factory=Run.fresh)

    def __post_init__(self) -> None:
        self.data.mkdir(exist_ok=True)
        if self.rows:
            write_table(self.data / "table.csv", self.rows)
        given = {"project": "p", "queryfile": "table.csv", "profile": "default", **self.given}
        self.study = steps.set_up(self.run, given, None)

    def folder(self, name: str) -> Path:
        return self.data / "studies" / "p" / name

    def params(self, stage: str) -> dict[str, Any]:
        return stages_of(self.run)[stage] or {}

    def fetch(self) -> None:
        stage, params = stage_run(self.run, EXTRACT), self.params(EXTRACT)
        more: dict[str, Any] = {"selection": str(self.data / params["selection"]) if params["selection"] else ""}
        more |= {"verify": params["verify"], "reselect": params["reselect"], **reading_options("", params)}
        request = Request(self.data / self.study.queryfile, self.data / params["out_directory"], info=True, **more)
        for batch in extraction.prepare(stage, request, self.node):
            extraction.find(stage, self.node, batch)
        for unit in extraction.plan(stage, self.node).units:
            extraction.retrieve(stage, self.node, unit)
        extraction.report(stage)

    def link(self) -> None:
        stage, params = stage_run(self.run, PSEUDONYMS), self.params(PSEUDONYMS)
        mapping = str(self.data / params["mappingfile"]) if params["mappingfile"] else ""
        folder = str(self.data / params["in_folder"])
        request = PseudonymRequest(
            params["source"],
            "p",
            in_folder=folder,
            mappingfile=mapping,
            leave_out=params["leave_out"],
            allow_empty=True,
        )
        source = pseudonyms.own_source(request)
        for batch in pseudonyms.prepare(stage, request, source.batch_size):
            pseudonyms.ask(stage, source, batch)
        pseudonyms.report(stage)

    def deidentify(self, units: int = 1000) -> None:
        stage, params = stage_run(self.run, ANONYMIZE), self.params(ANONYMIZE)
        request = DeidRequest(
            self.data / params["in_folder"],
            self.data / params["out_folder"],
            params["profile"],
            project="p",
            linked_only=params["linked_only"],
            allow_empty=True,
            delete_identifiable=params["delete_identifiable"],
            description=params["description"],
            license=params["license"],
            ethics=params["ethics"],
            contact_sheets=False,
        )
        for unit in deid.prepare(stage, request)[:units]:
            deid.convert(stage, unit)
        deid.report(stage)

    def move_dumps(self) -> None:
        stage, params = stage_run(self.run, DUMPS), self.params(DUMPS)
        request = DumpsRequest(self.data / params["data_folder"], self.data / params["info_folder"])
        for unit in dumps.prepare(stage, request):
            dumps.move(stage, unit)
        dumps.report(stage)

    def make(self) -> None:
        """All that comes before the release."""
        self.fetch()
        self.link()
        self.deidentify()
        self.move_dumps()

    def release(self) -> None:
        steps.check(self.run)
        self.approve_and_release()

    def approve_and_release(self) -> None:
        self.approve()
        release(self.run)

    def approve(self) -> None:
        digest = stock_of(self.run).digest
        approvals.ask(self.run, approvals.RELEASE, digest)
        approvals.decide(self.run, approvals.RELEASE, digest, approvals.APPROVED, "Dr. Data Manager")

    def release_to(self, node: Node) -> None:
        """Release straight to a store."""
        steps.check(self.run)
        self.approve()
        self.send_to_store(node)
        release(self.run)

    def send_to_store(self, node: Node) -> None:
        begin_sending(self.run)
        self.upload(node, RELEASE_TO, release=str(listing_of(self.run)))

    def make_file_set(self) -> None:
        stage, params = stage_run(self.run, DICOMDIR), self.params(DICOMDIR)
        request = DicomdirRequest(self.data / params["in_folder"], self.data / params["out_folder"])
        for unit in dicomdir.prepare(stage, request):
            dicomdir.copy(stage, unit)
        dicomdir.assemble(stage)

    def convert(self) -> ToolAccount:
        stage, params = stage_run(self.run, CONVERT), self.params(CONVERT)
        request = ConvertRequest(
            self.data / params["in_folder"], self.data / params["out_folder"], params["layout"], allow_empty=True
        )
        for unit in conversion.prepare(stage, request):
            conversion.convert(stage, unit)
        conversion.assemble(stage, search_of(stage, request.in_folder))
        return conversion.report(stage)

    def remove(self, *destinations: Node) -> None:
        steps.remove(self.run, [destination.key for destination in destinations])

    def upload(self, node: Node, name: str = UPLOAD, **more: Any) -> None:
        stage, params = stage_run(self.run, name), self.params(name)
        folder, out = (self.data / params[name] for name in ("upload_directory", "out_directory"))
        request = UploadRequest(folder, out, allow_empty=True, **more)
        units = upload.prepare(stage, request, node)
        with upload.Sending(stage, node) as sending:
            sending.units(units)
        upload.report(stage, lambda: node)

    def tag_and_send(self, gateway: PacsNode) -> None:
        stage, params = stage_run(self.run, KARNAK), self.params(KARNAK)
        request = KarnakRequest(
            self.data / params["in_folder"],
            self.data / params["out_folder"],
            params["album_name"],
            project="p",
            allow_empty=True,
        )
        for unit in karnak.prepare(stage, request):
            karnak.tag(stage, unit)
        karnak.report(stage)
        self.upload(gateway, KARNAK_UPLOAD)
