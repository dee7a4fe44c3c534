"""The hook of connection type `object_store`: a bucket, or a folder in one, that data sets are sent to."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from pacsifier_ops.base.errors import ConfigError, PacsifierError
from pacsifier_ops.upload.nodes import ObjectStoreNode


class ObjectStoreHook(BaseHook):
    """Provides the store of a connection.

    Login and password are the keys, the fields of the connection's extra are those of `ObjectStoreNode`.

    Args:
        store_conn_id: id of the connection.
    """

    conn_name_attr = "store_conn_id"
    default_conn_name = "store_default"
    conn_type = "object_store"
    hook_name = "Object store (S3, GCS, Azure)"

    def __init__(self, store_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.store_conn_id = store_conn_id

    def get_conn(self) -> ObjectStoreNode:
        """Return the store.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        from pacsifier_ops.hooks.destinations import destination

        node = destination(self.store_conn_id)
        if not isinstance(node, ObjectStoreNode):
            raise ConfigError(f"connection {self.store_conn_id} is none of an object store")
        return node

    def test_connection(self) -> tuple[bool, str]:
        """Write a small object and remove it again, for the Test button.

        Returns:
            Whether a run could send there, and a sentence with the result.
        """
        from pacsifier_ops.state.leases import shared
        from pacsifier_ops.upload.kinds import destination_at

        try:
            with destination_at(self.get_conn(), shared()) as store:
                store.check()
            return True, "a small object was written and removed again"
        except PacsifierError as error:
            text = str(error).removeprefix("connection ")
            return False, text.removeprefix(f"{self.store_conn_id}: ")
        except Exception as error:
            self.log.exception("The test of a connection failed")
            return False, f"unexpected {type(error).__name__}; the log of the API server tells more"
