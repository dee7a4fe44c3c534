"""The hook of connection type `deid_api`: the De-ID service, which assigns pseudonyms and date shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.hooks.button import tested

if TYPE_CHECKING:
    from pacsifier_ops.pseudonyms.deid_api import DeidService


class DeidApiHook(BaseHook):
    """Provides the De-ID service of a connection.

    The host is its URL, the password the token. The fields of the connection's extra are those of `DeidService`.

    Args:
        deid_conn_id: id of the connection.
    """

    conn_name_attr = "deid_conn_id"
    default_conn_name = "deid_default"
    conn_type = "deid_api"
    hook_name = "De-ID service"

    def __init__(self, deid_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deid_conn_id = deid_conn_id

    def get_conn(self) -> DeidService:
        """Return the De-ID service.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        from pacsifier_ops.pseudonyms.deid_api import service_from_connection

        try:
            found = self.get_connection(self.deid_conn_id)
        except AirflowNotFoundException:
            raise ConfigError(
                f"there is no connection {self.deid_conn_id}; make one of type {self.conn_type}"
            ) from None
        return service_from_connection(
            self.deid_conn_id, found.host, found.schema, found.port, found.extra_dejson, found.password
        )

    def test_connection(self) -> tuple[bool, str]:
        """Send a request without patients, for the Test button.

        Returns:
            Whether a run could use the service, and a sentence with the result.
        """
        return tested(self.deid_conn_id, self.log.exception, lambda: self.get_conn().check())
