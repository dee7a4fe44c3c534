"""`pacsifier-init`: create what runs and pages need beforehand: the folders, Airflow's pools, a permission.

With --dags or --samples it only copies files that come with the package.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import write_atomic
from pacsifier_ops.base.shipped import DAGS, INCLUDE, shipped
from pacsifier_ops.hooks.constants import REPORTS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code. It may be repeated."""
    parser = argparse.ArgumentParser(prog="pacsifier-init", description=__doc__)
    parser.add_argument("--dags", type=Path, metavar="FOLDER", help="put the DAG files here, in place of earlier ones")
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="FOLDER",
        help="put sample tables, project files, DAGs and Airflow's settings here, but for those that are there",
    )
    options = parser.parse_args(argv)
    if options.dags or options.samples:
        try:
            _copy(DAGS, options.dags, replace=True)
            _copy(INCLUDE, options.samples, replace=False)
        except (ConfigError, OSError) as error:
            print(f"pacsifier-init: {error}", file=sys.stderr)
            return 2
        return 0
    from airflow.utils.session import create_session

    from pacsifier_ops.hooks.pools import make_pools

    settings.data_root().mkdir(parents=True, exist_ok=True)
    print(f"data root:  {settings.data_root()}\nstate root: {settings.state_root()}")
    with create_session() as session:
        for name, slots in make_pools(session).items():
            print(f"pool {name}: {slots} slots")
    if _make_permission():
        print(f"permission: can read on {REPORTS}; give it to the roles that may see reports")
    return 0


def _copy(what: str, to: Path | None, replace: bool) -> None:
    """Copy a folder that comes with the package, and say which files were written.

    Args:
        to: destination; None: nothing is to be copied.
        replace: whether files that are there are replaced.

    Raises:
        ConfigError: see `shipped`.
        OSError: a file cannot be written.
    """
    if to is None:
        return
    source = shipped(what)
    folders = os.walk(source, followlinks=True)
    for path in sorted(Path(folder, name) for folder, _, names in folders for name in names):
        target = to / path.relative_to(source)
        if path.suffix == ".pyc" or (target.exists() and not replace):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, path.read_bytes(), 0o644)
        print(target)


def _make_permission() -> bool:
    """Create the permission to see reports if Airflow's auth manager is FAB's. Return whether it is.

    The role Admin gets it. Other auth managers need no such step.
    """
    from airflow.configuration import conf

    manager = conf.getimport("core", "auth_manager")
    if manager is None or "FabAuthManager" not in (base.__name__ for base in manager.__mro__):
        return False
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        builder.sm.create_permission("can_read", REPORTS)
        builder.sm.update_admin_permission()
    return True


if __name__ == "__main__":
    sys.exit(main())
