"""The hooks of destinations that have a type of connection of their own: object stores, XNAT, Kheops."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from pacsifier_ops.base.config import Node
from pacsifier_ops.hooks.button import tested
from pacsifier_ops.hooks.destinations import destination


class StoreHook(BaseHook):
    """Provides the destination of a connection. The fields of the connection's extra are those of its node.

    Args:
        store_conn_id: id of the connection.
    """

    conn_name_attr = "store_conn_id"

    def __init__(self, store_conn_id: str = "store_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.store_conn_id = store_conn_id

    def get_conn(self) -> Node:
        """Return the destination.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        return destination(self.store_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """See whether a run could send there, for the Test button.

        Returns:
            Whether it could, and a sentence with the result.
        """
        from pacsifier_ops.state.leases import shared
        from pacsifier_ops.upload.kinds import destination_at

        def try_it() -> str:
            with destination_at(self.get_conn(), shared()) as place:
                place.check()
            return "data sets can be sent there"

        return tested(self.store_conn_id, self.log.exception, try_it)


class ObjectStoreHook(StoreHook):
    """A bucket, or a folder in one: login and password are the keys, see `ObjectStoreNode`."""

    default_conn_name = "store_default"
    conn_type = "object_store"
    hook_name = "Object store (S3, GCS, Azure)"


class XnatHook(StoreHook):
    """A project of an XNAT, see `XnatNode`."""

    default_conn_name = "xnat_default"
    conn_type = "xnat"
    hook_name = "XNAT project"


class KheopsHook(StoreHook):
    """An album of Kheops, see `KheopsNode`."""

    default_conn_name = "kheops_default"
    conn_type = "kheops"
    hook_name = "Kheops album"
