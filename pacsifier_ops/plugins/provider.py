"""The provider info of this package: connection types and their forms (entry point `apache_airflow_provider`)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pacsifier_ops.base.config import ACCEPT_ARCHIVE, LETTERS_KEPT, LETTERS_LOST, METHODS, PacsNode, WebNode
from pacsifier_ops.pseudonyms.deid_api import DeidService
from pacsifier_ops.upload.nodes import KheopsNode, ObjectStoreNode, XnatNode

#: The form of a connection: sections, and in each the fields of the connection's extra, with label, help text and
#: further constraints of the JSON Schema.
_Sections = dict[str, dict[str, tuple[str, str, dict[str, Any]]]]
_AE_TITLE = {"minLength": 1, "maxLength": 16}
_PORT = {"minimum": 0, "maximum": 65535}
_NAMES = (
    "Names of Airflow users, role:NAME for a role, schedule for runs that nobody starts; with commas between them. Or "
    "everybody, or nobody. Empty: everybody, unless the setting PACSIFIER_RIGHTS says otherwise."
)
_PACS: _Sections = {
    "AE titles": {
        "called_aet": ("Called AE title", "AE title of the PACS. Required.", _AE_TITLE),
        "calling_aet": (
            "Calling AE title",
            "Our own AE title. The PACS must know it and allow it to query and retrieve.",
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
            "TCP port of our storage receiver, as declared on the PACS for this machine. Required for C-MOVE to us. "
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
            "For images with another PatientID than the PACS gives for their series, as after a correction that did "
            "not reach the files. Empty: such images are not used.",
            {"enum": ["", ACCEPT_ARCHIVE], "values_display": {ACCEPT_ARCHIVE: "archive: that of the PACS"}},
        ),
        "move_aet": (
            "Move destination AE title",
            "AE title of the node that a run with retrieve = move sends series to. Empty: none.",
            _AE_TITLE,
        ),
        "fetch_from": (
            "Fetch from",
            "Id of another connection, of type dicom or dicomweb, that gives the images of what is found here. Empty: "
            "they are fetched from here.",
            {},
        ),
    },
    "Limits and pacing": {
        "max_associations": (
            "Associations at most",
            "Maximum number of simultaneous associations with this PACS, of all runs and command lines together.",
            {"minimum": 1},
        ),
        "max_series": (
            "Series at most",
            "A run that finds more series stops before any image is fetched, or waits for a person's approval. 0: the "
            "limit of the settings.",
            {"minimum": 0},
        ),
        "max_images": ("Images at most", "The same for images. 0: no limit.", {"minimum": 0}),
        "max_gigabytes": ("GB at most", "The same for estimated gigabytes. 0: no limit.", {"minimum": 0}),
        "max_hours": (
            "Hours at most",
            "The same for the estimated hours, with pauses and closed hours. 0: no limit.",
            {"minimum": 0},
        ),
        "max_share": (
            "Share of the archive at most",
            "The same for the percentage of the images of the archive, which must be given. 0: no limit.",
            {"minimum": 0, "maximum": 100},
        ),
        "archive_images": (
            "Images of the archive",
            "Approximate number of images in the archive. 0: not known.",
            {"minimum": 0},
        ),
        "result_limit": (
            "Result limit",
            "Maximum number of matches that the PACS returns for a query; larger queries are split. 0: no limit.",
            {"minimum": 0},
        ),
        "letters": (
            "Letters of names",
            "Whether answers of the PACS contain all letters of a name. Lost: names that lack letters are checked with "
            "the PACS, and a row without a clear result is undecidable. Empty: each run finds out. The probe tells it.",
            {"enum": ["", LETTERS_KEPT, LETTERS_LOST], "values_display": {LETTERS_KEPT: "kept", LETTERS_LOST: "lost"}},
        ),
        "batch_size": (
            "Batch size",
            "Number of series after which the transfer pauses for the batch wait. 0: no pause.",
            {"minimum": 0},
        ),
        "batch_wait_time": ("Batch wait", "Seconds of a pause. 0: no pause.", {"minimum": 0}),
    },
    "Hours": {
        "window": (
            "Retrieval window",
            "Times of day at which images may be transferred, such as 20:00-06:00; several separated by commas. "
            "Outside of them a run waits. Empty: that of the setting window, or always.",
            {},
        ),
        "window_weekends": ("Open at weekends", "With a retrieval window: Saturdays and Sundays are open all day.", {}),
        "timezone": (
            "Time zone",
            "Time zone of the window, such as Europe/Zurich. Empty: that of the setting timezone, or of the system.",
            {},
        ),
    },
    "Rights": {
        "may_take": ("Who may take", f"Who may take images from this PACS. {_NAMES}", {}),
        "may_send": ("Who may send", f"Who may send images to this node. {_NAMES}", {}),
        "may_identified": (
            "Who may take identified data",
            f"Who may take images from here as they are, or send such images here. {_NAMES}",
            {},
        ),
        "may_urgent": ("Who may be urgent", f"Who may start a run with urgency: urgent here. {_NAMES}", {}),
    },
    "Timeouts": {
        "connect_timeout": ("Connect timeout", "Seconds for the TCP connection.", {"minimum": 0.1}),
        "acse_timeout": ("Association timeout", "Seconds for the PACS to accept an association.", {"minimum": 0.1}),
        "dimse_timeout": ("Answer timeout", "Seconds of silence within a query or a retrieval.", {"minimum": 0.1}),
        "retry_wait": (
            "Wait before a retry",
            "Seconds before another try after a temporary error; doubles each time.",
            {"minimum": 0},
        ),
        "recall_wait": (
            "Wait for a recall",
            "Seconds for which a series that the PACS recalls from slow storage is asked for again. 0: not at all.",
            {"minimum": 0},
        ),
    },
    "TLS": {
        "tls": ("TLS to the PACS", "Use DICOM over TLS; the port is then the TLS port of the PACS.", {}),
        "tls_check_host": ("Check the host name", "The certificate of the PACS must name the host.", {}),
        "tls_ca": (
            "CA file",
            "PEM file, on the workers, of the authorities that may sign the certificate of the PACS. Empty: those of "
            "the system.",
            {},
        ),
        "tls_certificate": (
            "Our certificate",
            "PEM file, on the workers, of our certificate with its chain. Empty: none.",
            {},
        ),
        "tls_key": ("Our key", "PEM file of the certificate's key. The passphrase is a standard field.", {}),
        "receiver_tls": ("TLS to our receiver", "The PACS sends to our receiver over TLS; same certificate.", {}),
    },
}
#: Of a web archive: what it shares with a PACS, and what is its own.
_WEB: _Sections = {
    "Login": {
        "token_url": (
            "URL of tokens",
            "OAuth 2: where the client, with login and password, gets its tokens. Empty: the login and the password "
            "are sent (HTTP Basic), or the password alone as a bearer token.",
            {},
        ),
        "scope": ("Scope", "OAuth 2: what the token is asked for. Empty: nothing in particular.", {}),
        "plain_credentials": (
            "Password without encryption",
            "The password may go over http. Only within a network that nobody else reads.",
            {},
        ),
    },
    "Retrieval": {name: _PACS["Retrieval"][name] for name in ("accept_patient_id_of", "fetch_from")},
    "Limits and pacing": {
        **_PACS["Limits and pacing"],
        "max_associations": (
            "Requests at most",
            "Maximum number of simultaneous requests to this archive, of all runs and command lines together.",
            {"minimum": 1},
        ),
    },
    "Hours": _PACS["Hours"],
    "Rights": _PACS["Rights"],
    "Timeouts": {
        **{name: _PACS["Timeouts"][name] for name in ("connect_timeout", "retry_wait", "recall_wait")},
        "answer_timeout": ("Answer timeout", "Seconds of silence within an answer.", {"minimum": 0.1}),
    },
    "TLS": {
        "tls_ca": _PACS["TLS"]["tls_ca"],
        "tls_certificate": _PACS["TLS"]["tls_certificate"],
        "tls_key": ("Our key", "PEM file of the certificate's key, without a passphrase.", {}),
    },
}
_DEID: _Sections = {
    "TLS": {
        "ca": (
            "CA file",
            "PEM file, on the workers, of the authorities that may sign the certificate of the service. Empty: those "
            "of the system.",
            {},
        ),
    },
    "Batches": {
        "batch_size": ("Batch size", "Number of patients in one request.", {"minimum": 1}),
    },
    "Timeouts": {
        "connect_timeout": ("Connect timeout", "Seconds for the connection.", {"minimum": 0.1}),
        "read_timeout": ("Answer timeout", "Seconds for a whole answer.", {"minimum": 0.1}),
        "retry_wait": (
            "Wait before a retry",
            "Seconds before another try after a temporary error; doubles each time.",
            {"minimum": 0},
        ),
    },
}
_STORE: _Sections = {
    "Place": {
        "root": ("Bucket and folder", "URL of the bucket and a folder in it, such as s3://bucket/folder.", {}),
        "endpoint_url": (
            "Address of the store",
            "Of a store other than that of the maker, such as https://minio.hospital.example:9000. Empty: AWS.",
            {},
        ),
        "region_name": ("Region", "Of the bucket. Empty: as the environment says.", {}),
        "session_token": ("Session token", "Of temporary keys. Empty: none.", {"format": "password"}),
        "ca": (
            "CA file",
            "PEM file, on the workers, of the authorities that may sign the certificate of the store. Empty: those of "
            "the system.",
            {},
        ),
        "options": ("Options", "JSON object of further arguments of fsspec. Empty: none.", {"format": "password"}),
    },
    "Limits and pacing": {
        "takes_away": ("Takes files away", "The other side takes files away: what was confirmed counts as there.", {}),
        "max_associations": ("Tasks at most", "Maximum number of our tasks that send there at once.", {"minimum": 1}),
        "batch_size": _PACS["Limits and pacing"]["batch_size"],
        "batch_wait_time": _PACS["Limits and pacing"]["batch_wait_time"],
    },
    "Hours": _PACS["Hours"],
    "Rights": {name: _PACS["Rights"][name] for name in ("may_send", "may_identified", "may_urgent")},
    "Timeouts": {
        "connect_timeout": ("Connect timeout", "Seconds for the connection.", {"minimum": 0.1}),
        "answer_timeout": ("Answer timeout", "Seconds of silence.", {"minimum": 0.1}),
        "retry_wait": _PACS["Timeouts"]["retry_wait"],
    },
}
_SENT_TO: _Sections = {
    "Login": {"plain_credentials": _WEB["Login"]["plain_credentials"]},
    "Limits and pacing": {key: one for key, one in _STORE["Limits and pacing"].items() if key != "takes_away"},
    **{name: _STORE[name] for name in ("Hours", "Rights", "Timeouts")},
    "TLS": _WEB["TLS"],
}
_XNAT: _Sections = {
    "Place": {
        "project": ("Project", "ID of the project. Required.", {}),
        "into": (
            "Where to",
            "The archive, or the prearchive, where a person looks at the data first.",
            {"enum": ["archive", "prearchive"]},
        ),
    },
    **_SENT_TO,
}
_KHEOPS: _Sections = {
    "Place": {"album": ("Album", "Its name; it is made if it is not there. Empty: the token is that of an album.", {})},
    **_SENT_TO,
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
                        "password": "only if the key has one",
                    },
                },
                "conn-fields": _conn_fields(_PACS, PacsNode, required="called_aet"),
            },
            {
                "connection-type": "dicomweb",
                "hook-class-name": "pacsifier_ops.hooks.dicomweb.DicomWebHook",
                "hook-name": "DICOMweb archive",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {"host": "URL", "password": "Password or token"},
                    "placeholders": {"host": "https://pacs.hospital.example/dicom-web"},
                },
                "conn-fields": _conn_fields(_WEB, WebNode),
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
            {
                "connection-type": "object_store",
                "hook-class-name": "pacsifier_ops.hooks.stores.ObjectStoreHook",
                "hook-name": "Object store (S3, GCS, Azure)",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "host", "port"],
                    "relabeling": {"login": "Access key", "password": "Secret key"},
                },
                "conn-fields": _conn_fields(_STORE, ObjectStoreNode, required="root"),
            },
            {
                "connection-type": "xnat",
                "hook-class-name": "pacsifier_ops.hooks.stores.XnatHook",
                "hook-name": "XNAT project",
                "ui-field-behaviour": {"hidden-fields": ["schema"], "relabeling": {"host": "URL"}},
                "conn-fields": _conn_fields(_XNAT, XnatNode, required="project"),
            },
            {
                "connection-type": "kheops",
                "hook-class-name": "pacsifier_ops.hooks.stores.KheopsHook",
                "hook-name": "Kheops album",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "URL", "password": "Token"},
                    "placeholders": {"host": "https://kheops.example/api"},
                },
                "conn-fields": _conn_fields(_KHEOPS, KheopsNode),
            },
            {
                "connection-type": "message_channel",
                "hook-class-name": "pacsifier_ops.hooks.channels.ChannelHook",
                "hook-name": "Channel for messages (Apprise)",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "schema", "login", "port", "extra"],
                    "relabeling": {"password": "URL of Apprise"},
                    "placeholders": {"password": "slack://…, msteams://…, matrixs://…, or another of Apprise"},
                },
            },
        ],
    }


def _conn_fields(sections: _Sections, of: type, required: str = "") -> dict[str, Any]:
    """Return the form fields of a connection's extra.

    The defaults are filled in: for an existing connection, Airflow's form shows only the fields in its extra.

    Args:
        of: dataclass with the fields; types and defaults are taken from it.
        required: name of the required field; empty: none.
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
    """Return a default as text for people."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)
