"""`pacsifier-init`: create what runs and pages need beforehand: the folders, Airflow's pools, a permission."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops.base import settings
from pacsifier_ops.hooks.constants import REPORTS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code. It may be repeated."""
    argparse.ArgumentParser(prog="pacsifier-init", description=__doc__).parse_args(argv)
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
