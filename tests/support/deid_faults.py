"""What a De-ID service may do wrong, for those who use one: the settings of `deid_server.Faults`, by name."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.embedded.deid_server import WEB_PAGE


def faults(patients: list[str]) -> dict[str, dict[str, Any]]:
    """The faults, those about one patient with the last of them."""
    last = patients[-1]
    return {
        "401": {"status": 401},
        "403": {"status": 403},
        "429 for an hour": {"status": 429, "headers": {"Retry-After": "3600"}},
        "500": {"status": 500},
        "slow": {"delay": 5},
        "cut before": {"cut": "before"},
        "cut within": {"cut": "within"},
        "redirect": {"status": 307, "headers": {"Location": "https://elsewhere.example/"}},
        "html": {"body": WEB_PAGE, "content_type": "text/html"},
        "list": {"body": b"[]"},
        "missing": {"missing": frozenset({last})},
        "own id": {"pseudonyms": {last: last}},
        "given twice": {"pseudonyms": dict.fromkeys(patients, "D000000000001")},
        "no folder": {"pseudonyms": {last: "../D1"}},
        "no number": {"shifts": {last: "soon"}},
    }
