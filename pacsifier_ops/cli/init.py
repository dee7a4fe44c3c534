"""`pacsifier-init`: make what a run needs and no task can make: the folders and Airflow's pools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Safe to repeat."""
    argparse.ArgumentParser(prog="pacsifier-init", description=__doc__).parse_args(argv)
    from airflow.utils.session import create_session

    from pacsifier_ops.plugins.pools import make_pools

    settings.data_root().mkdir(parents=True, exist_ok=True)
    print(f"data root:  {settings.data_root()}\nstate root: {settings.state_root()}")
    with create_session() as session:
        for name, slots in make_pools(session).items():
            print(f"pool {name}: {slots} slots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
