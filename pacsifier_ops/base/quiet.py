"""Keeps libraries from logging what identifies patients: names of files, and addresses with keys and UIDs."""

from __future__ import annotations

import logging


def quiet(*names: str, least: int = logging.INFO) -> None:
    """Let loggers of libraries write from a level on only, whatever level is set for all.

    Args:
        names: of the loggers.
        least: level from which they write.
    """
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, least))
