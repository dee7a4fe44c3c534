"""The FastAPI application: its routes, and the boundary around them all."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from airflow.models import DagRun, Variable
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive, Scope, Send

from pacsifier_ops import intake, settings
from pacsifier_ops.errors import ConfigError, PacsifierError
from pacsifier_ops.files import read_json
from pacsifier_ops.html import STYLE
from pacsifier_ops.plugins.pools import dicom_connections
from pacsifier_ops.probe import page_of
from pacsifier_ops.progress import progress_of
from pacsifier_ops.run import Run, dag_run_name
from pacsifier_ops.study.run import STAGES, stage_folder
from pacsifier_ops.thumbnails import thumbnails_of
from pacsifier_ops.web import PREFIX, pages
from pacsifier_ops.web.access import (
    EXTRACT,
    IdentifiedRunDep,
    RunDep,
    StarterDep,
    may_read_reports,
    may_see_connection,
    same_origin,
)

log = logging.getLogger(__name__)

#: What every answer says to the browser, unless it says something else itself.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: A report brings its own style, and nothing else.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
_STATIC = Path(__file__).parent / "static"
#: Bytes around the table in the body of a request.
_ENVELOPE = 2**16


def _adopt_settings() -> None:
    """Let the settings of the Airflow variable hold, as they do for tasks."""
    try:
        settings.use(Variable.get(settings.VARIABLE, default_var={}, deserialize_json=True))
    except ValueError:
        raise ConfigError(f"the Airflow variable {settings.VARIABLE} is not valid JSON") from None


app = FastAPI(
    docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user), Depends(_adopt_settings)]
)


async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
    """The application within its boundary: headers on every answer, and no exception leaves, for it may hold values."""
    begun = False

    async def sending(message: Message) -> None:
        nonlocal begun
        if message["type"] == "http.response.start":
            begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    try:
        await app(scope, receive, sending)
    except Exception as error:
        log.error("unexpected %s in a page of PACSIFIER", type(error).__name__)
        if not begun:
            await PlainTextResponse("unexpected error", 500)(scope, receive, sending)


def _base(request: Request) -> tuple[str, str]:
    """Addresses of the pages and of Airflow."""
    base = str(request.scope["root_path"])
    return base, base.removesuffix(f"/{PREFIX}")


def _wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


@app.exception_handler(AnyHTTPException)
def refused(request: Request, error: AnyHTTPException) -> Response:
    """An error for people as a page (who is not logged in is led there), for programs as JSON."""
    if not (_wants_html(request) and request.method == "GET"):
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
    if error.status_code == 401:
        return RedirectResponse(get_auth_manager().get_url_login(next_url=request.url.path), 303)
    return HTMLResponse(pages.refusal(_base(request)[0], error.detail), error.status_code)


@app.exception_handler(PacsifierError)
def failed(request: Request, error: PacsifierError) -> Response:
    """A typed error holds no values."""
    return refused(request, HTTPException(503 if error.retryable else 500, str(error)))


# Intake


@app.get("/")
def intake_page(request: Request, user: StarterDep, session: SessionDep) -> HTMLResponse:
    """The page on which a query table is handed in."""
    every = [(str(item.conn_id), item.team_name) for item in dicom_connections(session)]
    known = [name for name, team in every if may_see_connection(user, name, team)]
    base, airflow = _base(request)
    shown = known if known or not every else None
    return HTMLResponse(pages.intake_page(base, airflow, EXTRACT, shown, intake.LARGEST))


@app.post("/requests", dependencies=[Depends(same_origin)])
async def take_in(request: Request, user: StarterDep) -> JSONResponse:
    """Check a query table, the multipart field `table`, and keep it under an opaque id: see `intake.Intake.as_json`."""
    taken = await run_in_threadpool(intake.take, await _table(request))
    return JSONResponse(taken.as_json(), 201 if taken.request else 422)


class _InMemory(MultiPartParser):
    """Never writes what it reads into a temporary file."""

    spool_max_size = intake.LARGEST + _ENVELOPE


async def _table(request: Request) -> bytes:
    """The one file of a multipart body."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "Send the query table as multipart/form-data, in a field called table.")
    try:
        form = await _InMemory(request.headers, _limited(request), max_files=1, max_fields=0).parse()
    except MultiPartException:
        raise HTTPException(400, "Send one file, the query table, and nothing else.") from None
    table = form.get("table")
    if not isinstance(table, UploadFile):
        raise HTTPException(400, "Send the query table in a field called table.")
    try:
        return await table.read()
    finally:
        await table.close()


async def _limited(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes, refused as soon as it is too large."""
    most, told = intake.LARGEST + _ENVELOPE, request.headers.get("content-length", "0")
    come = int(told) if told.isdecimal() else 0
    too_large = HTTPException(413, f"A query table has at most {intake.LARGEST // 2**20} MB; cut it into several.")
    if come > most:
        raise too_large
    come = 0
    async for chunk in request.stream():
        come += len(chunk)
        if come > most:
            raise too_large
        yield chunk


# Runs


def _folder(run: DagRun) -> Run:
    """The run's folder.

    Raises:
        HTTPException: 404, there is none.
    """
    if folder := Run.existing(dag_run_name(run.dag_id, run.run_id)):
        return folder
    raise HTTPException(404, "This run has left nothing (yet).")


def _report(folder: Run) -> Path | None:
    """The report of an ended run; an earlier one stays where it is until the next is written."""
    if (folder.folder / "summary.json").exists() and folder.report.exists():
        return folder.report
    return page_of(folder) if page_of(folder).exists() else None


def _view(run: DagRun, readable: bool) -> pages.RunView:
    view = pages.RunView(run.dag_id, run.run_id, str(run.state), _iso(run.start_date), _iso(run.end_date))
    folder = Run.existing(dag_run_name(run.dag_id, run.run_id))
    if folder is None:
        return view
    return pages.RunView(
        view.dag_id,
        view.run_id,
        view.state,
        view.started,
        view.ended,
        progress_of(folder),
        _summary(folder),
        _report(folder) is not None,
        thumbnails_of(folder) if readable else {},
        readable,
        {stage: (progress_of(part), _summary(part)) for stage in STAGES if (part := _stage(folder, stage))},
    )


def _stage(folder: Run, stage: str) -> Run | None:
    path = stage_folder(folder, stage)
    return Run(path) if path.is_dir() else None


def _summary(folder: Run) -> dict[str, Any] | None:
    path = folder.folder / "summary.json"
    return read_json(path) if path.exists() else None


def _iso(time: datetime | None) -> str:
    return time.astimezone().isoformat(timespec="seconds") if time else ""


@app.get("/runs/{dag_id}/{run_id}")
def show_run(request: Request, run: RunDep, user: GetUserDep) -> Response:
    """How far a run has come, in counts: a page for browsers, JSON for programs."""
    view = _view(run, may_read_reports(user, run.dag_id))
    base, airflow = _base(request)
    if _wants_html(request):
        return HTMLResponse(pages.run_page(base, airflow, view))
    return JSONResponse(view.as_json(base))


@app.get("/runs/{dag_id}/{run_id}/summary")
def show_summary(run: RunDep) -> FileResponse:
    """How a run ended, in counts: see `RunAccount.summary`."""
    path = _folder(run).folder / "summary.json"
    if not path.exists():
        raise HTTPException(404, "This run has no summary (yet).")
    return FileResponse(path, media_type="application/json")


@app.get("/runs/{dag_id}/{run_id}/report")
def show_report(run: IdentifiedRunDep) -> FileResponse:
    """The report of a run. It identifies patients."""
    if path := _report(_folder(run)):
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})
    raise HTTPException(404, "This run has no report (yet).")


@app.get("/runs/{dag_id}/{run_id}/contact-sheets-{number}.html")
def show_sheets(run: IdentifiedRunDep, number: int) -> FileResponse:
    """Contact sheets of a de-identification, which its report leads to. What is burned in may identify a patient."""
    path = _folder(run).folder / f"contact-sheets-{number}.html"
    if not path.exists():
        raise HTTPException(404, "This run has no such contact sheets.")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@app.get("/runs/{dag_id}/{run_id}/stages/{name}/{page}.html")
def show_stage(run: IdentifiedRunDep, name: str, page: str) -> FileResponse:
    """The report of a stage of a study, or its contact sheets, where the report of the study leads to."""
    folder = _folder(run)
    stage = name.removeprefix(f"{folder.name}-")
    path = stage_folder(folder, stage) / f"{page}.html"
    if stage in STAGES and re.fullmatch(r"report|contact-sheets-\d+", page) and path.exists():
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})
    raise HTTPException(404, "This run has no such report (yet).")


@app.get("/runs/{dag_id}/{run_id}/thumbnails/{number}.png")
def show_thumbnail(run: IdentifiedRunDep, number: int) -> FileResponse:
    """One image of a series, small. It identifies a patient."""
    folder = _folder(run)
    path = folder.folder / "thumbnails" / f"{number}.png"
    if number not in thumbnails_of(folder) or not path.exists():
        raise HTTPException(404, "This series has no thumbnail.")
    return FileResponse(path, media_type="image/png")


# What the pages load


@app.get("/static/{name}")
def static(name: str) -> Response:
    """Style and scripts."""
    if name == "page.css":
        return Response(STYLE + (_STATIC / name).read_text(encoding="utf-8"), media_type="text/css")
    if name in ("intake.js", "run.js"):
        return FileResponse(_STATIC / name, media_type="text/javascript")
    raise HTTPException(404, "There is no such file.")
