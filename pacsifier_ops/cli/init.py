"""`pacsifier-init`: make what runs and pages need and cannot make: the folders, Airflow's pools, a permission."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops.base import settings
from pacsifier_ops.hooks.constants import REPORTS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Safe to repeat."""
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
    """Let roles be given the permission to see reports, where users and roles are those of FAB; whether they are.

    Its role Admin has all permissions. Other auth managers need not be told of a permission before it is given.
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
