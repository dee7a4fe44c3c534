"""What Airflow learns of this package without importing it: the entry point `apache_airflow_provider`."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Describe the provider (Airflow's provider_info schema)."""
    return {
        "package-name": "pacsifier-ops",
        "name": "PACSIFIER",
        "description": "Batch query and retrieval from a PACS over DICOM.",
        "connection-types": [
            {
                "connection-type": "dicom",
                "hook-class-name": "pacsifier_ops.hooks.dicom.DicomHook",
                "hook-name": "DICOM node (PACS)",
            }
        ],
    }
