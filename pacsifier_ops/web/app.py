"""The FastAPI application: its routes, and the boundary around them, which lets no exception out."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from airflow.models import DagModel, DagRun, Variable
from airflow.utils.state import State
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive, Scope, Send

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, InputError, NotApproved, PacsifierError, PathRefused
from pacsifier_ops.extract import intake
from pacsifier_ops.extract.choosing import lists_of
from pacsifier_ops.extract.steps import counts
from pacsifier_ops.extract.thumbnails import thumbnails_of
from pacsifier_ops.hooks.constants import OUR_PREFIX, PREFIX
from pacsifier_ops.hooks.pools import dicom_connections, other_connections
from pacsifier_ops.maintenance.deletion import Deletion, deletion_of
from pacsifier_ops.query.reading import CHOICES
from pacsifier_ops.runs.folder import Run, dag_run_name, now, stage_folder, stages_in
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.runs.pages import style
from pacsifier_ops.study import viewer
from pacsifier_ops.web import pages, runs, tasks
from pacsifier_ops.web.access import (
    ChangeRunDep,
    DeleteRunDep,
    IdentifiedRunDep,
    LookerDep,
    RunDep,
    StarterDep,
    may,
    may_answer,
    may_monitor,
    may_read_reports,
    may_see_connection,
    may_unpause,
    run_id_of,
    same_origin,
)
from pacsifier_ops.web.forms import JOBS, fresh_folder, params, problems, remarks
from pacsifier_ops.web.views import gate_of, handover_of, report_of, run_path, view_of

log = logging.getLogger(__name__)

#: Headers of every response that does not set them itself.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: A report contains its style and its images, and loads nothing.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("frame.js", "intake.js", "run.js", "viewer.js", "cornerstone.js")
#: Maximum size of a request's body without the table, in bytes.
_ENVELOPE = 2**16
#: Bytes of a page that are sent at once; the head of a page is shorter.
_PIECE = 2**18


def _adopt_settings() -> None:
    """Use the settings of the Airflow variable, as tasks do."""
    try:
        settings.use(Variable.get(settings.VARIABLE, default_var={}, deserialize_json=True))
    except ValueError:
        raise ConfigError(f"the Airflow variable {settings.VARIABLE} is not valid JSON") from None


app = FastAPI(
    docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user), Depends(_adopt_settings)]
)


async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
    """Run the application with its boundary. Every response gets the headers. No exception leaves: it may hold values.

    Args:
        scope, receive, send: of ASGI.
    """
    begun = False

    async def send_with_headers(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    try:
        await app(scope, receive, send_with_headers)
    except Exception as error:
        log.error("unexpected %s in a page of PACSIFIER", type(error).__name__)
        if not begun:
            await PlainTextResponse("unexpected error", 500)(scope, receive, send_with_headers)


def _base(request: Request) -> tuple[str, str]:
    """Return the addresses of the pages and of Airflow, without a slash at the end."""
    base = str(request.scope["root_path"])
    return base, base.removesuffix(f"/{PREFIX}")


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


@app.exception_handler(AnyHTTPException)
def refused(request: Request, error: AnyHTTPException) -> Response:
    """Return an error as a page for browsers, as JSON for programs. A browser without a login is sent to the login."""
    if not (_wants_html(request) and request.method == "GET"):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    if error.status_code == 401:
        return RedirectResponse(get_auth_manager().get_url_login(next_url=request.url.path), 303)
    return HTMLResponse(pages.refusal(_base(request)[0], error.detail), error.status_code)


@app.exception_handler(PacsifierError)
def failed(request: Request, error: PacsifierError) -> Response:
    """Return a typed error as a response. Its message contains no values."""
    return refused(request, HTTPException(503 if error.retryable else 500, str(error)))


# Intake


@app.get("/")
def intake_page(request: Request, user: LookerDep, session: SessionDep) -> HTMLResponse:
    """Return the page on which a user sends a query table, starts a run, and sees the last runs."""
    runs.forget_unstarted(session)
    every = [(str(item.conn_id), item.team_name) for item in dicom_connections(session)]
    known = [name for name, team in every if may_see_connection(user, name, team)]
    base, airflow = _base(request)
    shown = known if known or not every else None
    others = [(str(item.conn_id), item.team_name) for item in other_connections(session)]
    receivers = [name for name, team in others if may_see_connection(user, name, team)]
    paused = session.scalars(select(DagModel.dag_id).where(DagModel.is_paused, DagModel.dag_id.in_(JOBS))).all()
    startable = [job for job in JOBS.values() if may(user, "POST", job.dag_id)]
    held = {job.dag_id: may_unpause(user, job.dag_id) for job in startable if job.dag_id in paused}
    return HTMLResponse(pages.intake_page(base, airflow, startable, shown, held, intake.LARGEST, receivers))


@app.post("/requests", dependencies=[Depends(same_origin)])
async def take_in(request: Request, user: StarterDep, session: SessionDep) -> JSONResponse:
    """Check a query table, and keep it under an opaque id. It goes after a day, unless a run is started on it.

    The table is the multipart field `table`. The other fields are options of reading it, see `query.reading.Reading`.

    Returns:
        `intake.Intake.as_json`, and `folder`, a fresh one for its images, with status 201; 422 if the table cannot be
        used.
    """
    data, options = await _table(request)
    await run_in_threadpool(runs.forget_unstarted, session)
    try:
        taken = await run_in_threadpool(intake.check_and_keep, data, options)
    except (ConfigError, PathRefused) as error:
        raise HTTPException(400, f"{error}.") from None
    if not taken.request:
        return JSONResponse(taken.as_json(), 422)
    return JSONResponse({**taken.as_json(), "folder": fresh_folder(taken.request, now()[:10])}, 201)


class Asked(BaseModel):
    """A run that somebody wants to start."""

    dag_id: str
    conf: dict[str, Any]


@app.post("/checks", dependencies=[Depends(same_origin)])
def check(asked: Asked, user: StarterDep) -> JSONResponse:
    """Check the conf of a run before it is started, as its first steps would. Nothing is asked of a PACS.

    Returns:
        `problems`, which would end the run, and `remarks` on folders that others have used: each with the `option` that
        it is about, or none, and a `message`.
    """
    if not may(user, "POST", asked.dag_id):
        raise HTTPException(403, "You may not start runs of this DAG; ask an administrator for this permission.")
    if (job := JOBS.get(asked.dag_id)) is None:
        raise HTTPException(404, f"No run of this DAG is started here; there are {', '.join(JOBS)}.")
    try:
        conf = params(job, asked.conf)
    except InputError as error:
        raise HTTPException(400, f"{error}.") from None
    wrong = problems(job, conf)
    found = {"problems": wrong, "remarks": [] if wrong else remarks(job, conf)}
    return JSONResponse({name: [asdict(one) for one in several] for name, several in found.items()})


class _InMemory(MultiPartParser):
    """Parses forms without temporary files."""

    spool_max_size = intake.LARGEST + _ENVELOPE


async def _table(request: Request) -> tuple[bytes, dict[str, str]]:
    """Return the file of a multipart body, and the other fields.

    Raises:
        HTTPException: the body is not one file in the field `table` with known options.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "Send the query table as multipart/form-data, in a field called table.")
    try:
        form = await _InMemory(request.headers, _limited(request), max_files=1, max_fields=len(CHOICES)).parse()
    except MultiPartException:
        raise HTTPException(400, "Send one file, the query table, and nothing else but options.") from None
    table = form.get("table")
    if not isinstance(table, UploadFile):
        raise HTTPException(400, "Send the query table in a field called table.")
    options = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    if unknown := options.keys() - CHOICES.keys():
        raise HTTPException(
            400, f"{len(unknown)} field(s) beside the table are not known; there are {', '.join(CHOICES)}."
        )
    try:
        return await table.read(), options
    finally:
        await table.close()


async def _limited(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks.

    Raises:
        HTTPException: 413, as soon as the body is too large.
    """
    limit, length = intake.LARGEST + _ENVELOPE, request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"A query table has at most {intake.LARGEST // 2**20} MB; divide it into several.")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        yield chunk


# Runs


@app.get("/runs")
def list_runs(user: LookerDep, session: SessionDep, everybody: bool = False) -> JSONResponse:
    """Return the last runs of the user, or of everybody, see `runs.recent`."""
    return JSONResponse({"runs": runs.recent(session, user, everybody)})


def _folder(run: DagRun) -> Run:
    """Return the folder of a run.

    Raises:
        HTTPException: 404, there is none.
    """
    if folder := Run.existing(dag_run_name(run.dag_id, run.run_id)):
        return folder
    raise HTTPException(404, "This run has no results (yet).")


@app.get("/go/{dag_id}/{name}")
def go_to_run(request: Request, dag_id: str, name: str, user: GetUserDep, session: SessionDep) -> RedirectResponse:
    """Lead to the page of a run by the name of its folder: messages have no id, which somebody may have typed."""
    run_id = run_id_of(dag_id, name, user, session)
    dag, run = quote(dag_id, safe=""), quote(run_id, safe="")
    base, airflow = _base(request)
    ours = dag_id.startswith(OUR_PREFIX) or Run.existing(dag_run_name(dag_id, run_id))
    return RedirectResponse(f"{base}/runs/{dag}/{run}" if ours else f"{airflow}/dags/{dag}/runs/{run}", 303)


@app.get("/runs/{dag_id}/{run_id}")
def show_run(request: Request, run: RunDep, user: GetUserDep, session: SessionDep) -> Response:
    """Return progress and results of a run in counts: a page for browsers, JSON for programs."""
    dag = run.dag_id
    view = view_of(run, session, may_read_reports(user, dag), may(user, "PUT", dag), may_answer(user, dag))
    base, airflow = _base(request)
    if _wants_html(request):
        return HTMLResponse(pages.run_page(base, airflow, view))
    return JSONResponse(view.as_json(base, airflow))


@app.post("/runs/{dag_id}/{run_id}/cancel", dependencies=[Depends(same_origin)])
def cancel_run(run: ChangeRunDep, user: GetUserDep, session: SessionDep) -> JSONResponse:
    """Cancel a run that goes on, see `tasks.cancel`. Once more does no harm, also after its end."""
    goes_on = run.state in State.unfinished_dr_states
    decision = tasks.cancel(run, session, user) if goes_on else tasks.cancellation(run)
    if decision is None:
        raise HTTPException(409, "This run has ended, so there is nothing to cancel.")
    return JSONResponse({"state": str(run.state), "cancelled": {"by": decision.who, "at": decision.when}})


@app.get("/runs/{dag_id}/{run_id}/counts")
def show_counts(run: RunDep) -> JSONResponse:
    """Return how large the cohort of an extraction is, see `extract.steps.counts`."""
    try:
        return JSONResponse(counts(_folder(run)))
    except NotApproved:
        raise HTTPException(404, "This run has not counted its cohort (yet).") from None


@app.get("/runs/{dag_id}/{run_id}/deletion")
def ask_deletion(run: DeleteRunDep, session: SessionDep) -> JSONResponse:
    """Return what the deletion of a run removes (`goes`) and keeps (`stays`), one sentence each."""
    deletion = _deletion(run, session)
    return JSONResponse({"goes": deletion.goes, "stays": deletion.stays})


@app.delete("/runs/{dag_id}/{run_id}", dependencies=[Depends(same_origin)])
def delete_run(run: DeleteRunDep, user: GetUserDep, session: SessionDep) -> JSONResponse:
    """Remove the folder of an ended run. The run in Airflow is deleted by Airflow's own API, after this."""
    deletion = _deletion(run, session)
    deletion.do(user.get_name())
    return JSONResponse({"goes": deletion.goes, "stays": deletion.stays})


def _deletion(run: DagRun, session: Session) -> Deletion:
    """Return the deletion of a run.

    Raises:
        HTTPException: 409, it goes on, or its record must stay.
    """
    if run.state in State.unfinished_dr_states:
        raise HTTPException(409, "This run goes on; cancel it first, then delete it.")
    try:
        found = deletion_of(Run.planned(dag_run_name(run.dag_id, run.run_id)))
    except InputError as error:
        raise HTTPException(409, f"It was not deleted: {error}.") from None
    # Runs that only exist in Airflow need their table as well: those of a paused DAG have no folder yet.
    if found.request and runs.is_named(found.request.name, session, besides=run.id):
        return replace(found, request=None)
    return found


@app.get("/runs/{dag_id}/{run_id}/summary")
def show_summary(run: RunDep) -> JSONResponse:
    """Return the summary of an ended run, in counts (see `job.Account.summary`)."""
    if summary := summary_of(_folder(run)):
        return JSONResponse(summary)
    raise HTTPException(404, "This run has no summary (yet).")


@app.get("/runs/{dag_id}/{run_id}/report")
def show_report(request: Request, run: IdentifiedRunDep) -> StreamingResponse:
    """Return the report of a run. It identifies patients."""
    return _page(request, run, report_of(_folder(run)))


@app.get("/runs/{dag_id}/{run_id}/contact-sheets-{number}.html")
def show_sheets(request: Request, run: IdentifiedRunDep, number: int) -> StreamingResponse:
    """Return a page of contact sheets of a de-identification. Burned-in text may identify patients."""
    return _page(request, run, _folder(run).folder / f"contact-sheets-{number}.html")


@app.get("/runs/{dag_id}/{run_id}/stages/{name}/{page}.html")
def show_stage(
    request: Request, run: IdentifiedRunDep, name: str, page: str, beside: bool = False
) -> StreamingResponse:
    """Return the report of a stage, or a page of its contact sheets. The study's report links to these addresses.

    Args:
        beside: the page is shown within that of the run, so that no link leads back.
    """
    folder = _folder(run)
    stage = next((stage for stage in stages_in(folder) if stage_folder(folder, stage).name == name), None)
    if stage is None or not re.fullmatch(r"report|contact-sheets-[1-9]\d*", page, re.ASCII):
        return _page(request, run, None)
    part = Run(stage_folder(folder, stage))
    return _page(request, run, report_of(part) if page == "report" else part.folder / f"{page}.html", beside)


@app.get("/runs/{dag_id}/{run_id}/lists/{name}")
def show_list(run: IdentifiedRunDep, name: str) -> FileResponse:
    """Return a list of the selection of a run, or of that of a stage which asks the archive."""
    if path := lists_of(_folder(run)).get(name):
        return FileResponse(path, filename=name, headers={"X-Content-Type-Options": "nosniff"})
    raise HTTPException(404, "This run has no such list (yet).")


@app.get("/runs/{dag_id}/{run_id}/findings")
def show_findings(request: Request, run: IdentifiedRunDep) -> HTMLResponse:
    """Return the page with the findings of the search before a release. Names of files may identify patients."""
    if gate := gate_of(_folder(run)):
        return HTMLResponse(pages.findings_page(_base(request)[0], run_path(run.dag_id, run.run_id), gate))
    raise HTTPException(404, "This run has not searched for identifiers (yet).")


@app.get("/runs/{dag_id}/{run_id}/handover")
def show_handover(request: Request, run: IdentifiedRunDep) -> StreamingResponse:
    """Return the report that goes with the data of a study, even if the release was held back."""
    return _page(request, run, handover_of(_folder(run)))


def _page(request: Request, run: DagRun, path: Path | None, beside: bool = False) -> StreamingResponse:
    """Return a page from a run's folder, with a link back to the page of the run unless it is shown beside that.

    Raises:
        HTTPException: 404, there is none.
    """
    if path is None or not path.exists():
        raise HTTPException(404, "This run has no such report (yet).")
    back = "" if beside else pages.back_link(_base(request)[0], run_path(run.dag_id, run.run_id))
    return StreamingResponse(
        _with_head(path, back.encode()), media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY}
    )


def _with_head(path: Path, added: bytes) -> Iterator[bytes]:
    """Yield a page in pieces, with something added at the top of its content."""
    with path.open("rb") as stream:
        before, body, after = stream.read(_PIECE).partition(b"<body>")
        yield before + body + added + after if body else before
        while piece := stream.read(_PIECE):
            yield piece


@app.get("/runs/{dag_id}/{run_id}/thumbnails/{number}.png")
def show_thumbnail(run: IdentifiedRunDep, number: int) -> FileResponse:
    """Return a small image of a series. It may identify a patient."""
    folder = _folder(run)
    path = folder.folder / "thumbnails" / f"{number}.png"
    if number not in thumbnails_of(folder) or not path.exists():
        raise HTTPException(404, "This series has no thumbnail.")
    return FileResponse(path, media_type="image/png")


# Released images


@app.get("/runs/{dag_id}/{run_id}/images")
def show_images(request: Request, run: IdentifiedRunDep) -> Response:
    """Return the series that the run of a study has released: a viewer for browsers, JSON for programs."""
    series = viewer.series_of(_folder(run))
    if not series:
        raise HTTPException(404, "This run has released no images (yet), or the API server does not see the data root.")
    base, path = _base(request)[0], run_path(run.dag_id, run.run_id)
    if _wants_html(request):
        return HTMLResponse(pages.viewer_page(base, path, series))
    there = f"{base}/{path}/images"
    shown = [{"folder": one.folder, "files": one.files, "images": f"{there}/{one.number}"} for one in series]
    return JSONResponse({"series": shown})


@app.get("/runs/{dag_id}/{run_id}/images/{number}")
def show_series(run: IdentifiedRunDep, number: int) -> JSONResponse:
    """Return the images of a released series in instance order, each by the numbers of its file and of its frames."""
    with _not_found():
        return JSONResponse({"images": viewer.images_of(_folder(run), number)})


@app.get("/runs/{dag_id}/{run_id}/images/{number}/{file}/{frame}")
def show_frame(run: IdentifiedRunDep, number: int, file: int, frame: int) -> Response:
    """Return a frame of a released image for display, see `viewer.frame_of`."""
    with _not_found():
        return Response(viewer.frame_of(_folder(run), number, file, frame), media_type="application/octet-stream")


@contextmanager
def _not_found() -> Iterator[None]:
    """Make errors of the input those of an address that leads nowhere."""
    try:
        yield
    except InputError as error:
        raise HTTPException(404, f"{str(error).capitalize()}.") from None


# Monitoring


@app.get("/metrics", dependencies=[Depends(may_monitor)])
def show_metrics(session: SessionDep) -> Response:
    """Return counts of all runs, and what goes on, in the text format of Prometheus."""
    from prometheus_client import CONTENT_TYPE_LATEST

    from pacsifier_ops.web.metrics import exposition

    return Response(exposition(session), headers={"Content-Type": CONTENT_TYPE_LATEST})


# Files of the pages


@app.get("/static/{name}")
def static(name: str) -> Response:
    """Return the stylesheet or a script."""
    if name == "page.css":
        return Response(style(), media_type="text/css")
    if name in _SCRIPTS:
        return FileResponse(_STATIC / name, media_type="text/javascript")
    raise HTTPException(404, "There is no such file.")
