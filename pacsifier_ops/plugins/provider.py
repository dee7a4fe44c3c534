"""What Airflow learns of this package without importing it: the entry point `apache_airflow_provider`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pacsifier_ops.base.config import ACCEPT_ARCHIVE, LETTERS_KEPT, LETTERS_LOST, METHODS, PacsNode
from pacsifier_ops.pseudonyms.deid_api import DeidService

#: The form of a connection: its sections, and in each the fields of the connection's extra in the order of need,
#: with a label, a help text and, beyond the type, what a value must be (JSON Schema).
_Sections = dict[str, dict[str, tuple[str, str, dict[str, Any]]]]
_AE_TITLE = {"minLength": 1, "maxLength": 16}
_PORT = {"minimum": 0, "maximum": 65535}
_PACS: _Sections = {
    "AE titles": {
        "called_aet": ("Called AE title", "AE title of the PACS. Required.", _AE_TITLE),
        "calling_aet": (
            "Calling AE title",
            "Our own AE title; the PACS must know it and allow it to query and to retrieve.",
            _AE_TITLE,
        ),
    },
    "Retrieval": {
        "method": (
            "Retrieve method",
            "How images are fetched.",
            {
                "enum": [*METHODS],
                "values_display": {
                    "auto": "auto: C-GET where the PACS offers it, else C-MOVE",
                    "get": "get: C-GET, over the association that we open",
                    "move": "move: C-MOVE, the PACS opens associations to our receiver",
                },
            },
        ),
        "receiver_port": (
            "Receiver port",
            "TCP port of our storage receiver, as declared on the PACS for this machine; needed for C-MOVE to us. "
            "0: there is no receiver.",
            _PORT,
        ),
        "receiver_aet": (
            "Receiver AE title",
            "AE title of our receiver, as declared on the PACS. Empty: the calling AE title.",
            _AE_TITLE,
        ),
        "accept_patient_id_of": (
            "Whose PatientID counts",
            "Of images that hold another PatientID than the PACS gives for their series, as where a patient was "
            "corrected and the files were not. Empty: they are not used.",
            {"enum": ["", ACCEPT_ARCHIVE], "values_display": {ACCEPT_ARCHIVE: "archive: what the PACS answers"}},
        ),
        "move_aet": (
            "Move destination AE title",
            "AE title of the node that series are sent to when a run is to move instead of save. Empty: none.",
            _AE_TITLE,
        ),
    },
    "Limits and pacing": {
        "max_associations": (
            "Associations at most",
            "Associations held at this PACS at once, all runs and command lines together.",
            {"minimum": 1},
        ),
        "max_series": (
            "Series at most",
            "A run that finds more series stops before any image is fetched, or waits for a person's word. 0 is the "
            "limit of the settings.",
            {"minimum": 0},
        ),
        "max_images": ("Images at most", "Likewise, by images. 0: no limit.", {"minimum": 0}),
        "max_gigabytes": ("GB at most", "Likewise, by estimated gigabytes. 0: no limit.", {"minimum": 0}),
        "max_hours": (
            "Hours at most",
            "Likewise, by the hours that it takes, estimated, with pauses and closed hours. 0: no limit.",
            {"minimum": 0},
        ),
        "max_share": (
            "Share of the archive at most",
            "Likewise, by percent of the images of the archive, which must be known. 0: no limit.",
            {"minimum": 0, "maximum": 100},
        ),
        "archive_images": (
            "Images of the archive",
            "How many images the archive has, about. 0: not known.",
            {"minimum": 0},
        ),
        "result_limit": (
            "Result limit",
            "Number of matches at which the PACS cuts an answer off; queries are then split. 0: it does not.",
            {"minimum": 0},
        ),
        "letters": (
            "Letters of names",
            "Whether answers hold all letters of a name. Lost: names that lack some are checked with the PACS, and a "
            "row that they leave open is undecidable. Empty: each run finds out; the probe tells.",
            {"enum": ["", LETTERS_KEPT, LETTERS_LOST], "values_display": {LETTERS_KEPT: "kept", LETTERS_LOST: "lost"}},
        ),
        "batch_size": (
            "Batch size",
            "After so many series nobody starts another for the batch wait. 0: no pause.",
            {"minimum": 0},
        ),
        "batch_wait_time": ("Batch wait", "Seconds between two batches. 0: no pause.", {"minimum": 0}),
    },
    "Hours": {
        "window": (
            "Retrieval window",
            "Times of day at which images may be transferred, such as 20:00-06:00; several separated by commas. "
            "Outside of them a run waits. Empty: as the setting window says, or always.",
            {},
        ),
        "window_weekends": ("Open at weekends", "With a retrieval window: Saturdays and Sundays are open all day.", {}),
        "timezone": (
            "Time zone",
            "Whose clock, such as Europe/Zurich. Empty: as the setting timezone says, or the system's.",
            {},
        ),
    },
    "Timeouts": {
        "connect_timeout": ("Connect timeout", "Seconds for the TCP connection.", {"minimum": 0.1}),
        "acse_timeout": ("Association timeout", "Seconds for the PACS to accept an association.", {"minimum": 0.1}),
        "dimse_timeout": ("Answer timeout", "Seconds of silence within a query or a retrieval.", {"minimum": 0.1}),
        "retry_wait": (
            "Wait before a retry",
            "Seconds before what may pass by itself is tried again; doubles each time.",
            {"minimum": 0},
        ),
        "recall_wait": (
            "Wait for a recall",
            "Seconds for which a series that the PACS recalls from slow storage is looked at again. 0: not at all.",
            {"minimum": 0},
        ),
    },
    "TLS": {
        "tls": ("TLS to the PACS", "Talk DICOM over TLS; the port is then the TLS port of the PACS.", {}),
        "tls_check_host": ("Check the host name", "The certificate of the PACS must name the host.", {}),
        "tls_ca": (
            "CA file",
            "PEM file of the authorities that the certificate of the PACS must come from, where the workers run. "
            "Empty: those of the system.",
            {},
        ),
        "tls_certificate": (
            "Our certificate",
            "PEM file of the certificate (chain) that we show, where the workers run. Empty: we show none.",
            {},
        ),
        "tls_key": ("Our key", "PEM file of the key of that certificate; its passphrase is a standard field.", {}),
        "receiver_tls": ("TLS to our receiver", "The PACS sends to our receiver over TLS, same certificate.", {}),
    },
}
_DEID: _Sections = {
    "TLS": {
        "ca": (
            "CA file",
            "PEM file of the authorities that the certificate of the service must come from, where the workers run. "
            "Empty: those of the system.",
            {},
        ),
    },
    "Batches": {
        "batch_size": ("Batch size", "Patients that are asked for at once.", {"minimum": 1}),
    },
    "Timeouts": {
        "connect_timeout": ("Connect timeout", "Seconds for the connection.", {"minimum": 0.1}),
        "read_timeout": ("Answer timeout", "Seconds until an answer is there as a whole.", {"minimum": 0.1}),
        "retry_wait": (
            "Wait before a retry",
            "Seconds before what may pass by itself is tried again; doubles each time.",
            {"minimum": 0},
        ),
    },
}
_JSON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider (Airflow's provider.yaml schema)."""
    return {
        "package-name": "pacsifier-ops",
        "name": "PACSIFIER",
        "description": "Batch query and retrieval from a PACS over DICOM, pseudonyms and de-identification.",
        "connection-types": [
            {
                "connection-type": "dicom",
                "hook-class-name": "pacsifier_ops.hooks.dicom.DicomHook",
                "hook-name": "DICOM node (PACS)",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"password": "Passphrase of the TLS key"},
                    "placeholders": {
                        "host": "pacs.hospital.example",
                        "port": "104",
                        "password": "only where the key has one",
                    },
                },
                "conn-fields": _conn_fields(_PACS, PacsNode, required="called_aet"),
            },
            {
                "connection-type": "deid_api",
                "hook-class-name": "pacsifier_ops.hooks.deid_api.DeidApiHook",
                "hook-name": "De-ID service",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "URL", "password": "Token"},
                    "placeholders": {
                        "host": "https://deid.hospital.example/api/pseudonyms",
                        "port": "443",
                    },
                },
                "conn-fields": _conn_fields(_DEID, DeidService),
            },
        ],
    }


def _conn_fields(sections: _Sections, of: type, required: str = "") -> dict[str, Any]:
    """The fields of a connection's extra; types and defaults are those of a data class, so that they cannot differ.

    The defaults are filled in, for Airflow shows of an existing connection only what its extra holds.
    """
    by_name = {field.name: field for field in fields(of)}
    described = {}
    for section, members in sections.items():
        for name, (label, text, limits) in members.items():
            json_type, default = _JSON_TYPES[str(by_name[name].type)], by_name[name].default
            schema: dict[str, Any] = {"type": json_type if name == required else [json_type, "null"]}
            schema |= {"section": section, **limits}
            if name != required and default != "":
                schema["default"] = default
                text += f" Default: {_shown(default)}."
            described[name] = {"label": label, "description": text, "schema": schema}
    return described


def _shown(default: Any) -> str:
    """A default as a person writes it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)
