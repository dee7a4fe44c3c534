"""An album of Kheops as a destination: STOW-RS into the album, which is made if it is not there.

Made from Kheops' public documents: `/albums`, and `?album=` with DICOMweb.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode

from pacsifier_ops.base.errors import DestinationRefused
from pacsifier_ops.upload.nodes import KheopsNode
from pacsifier_ops.upload.stow import Stow
from pacsifier_ops.upload.web import Streamed


class Kheops(Stow):
    """An album. Without a name of one, the token is that of an album."""

    method = "kheops"

    def connect(self, stack: ExitStack) -> None:
        """Find the album."""
        super().connect(stack)
        self._open = True
        try:
            self._find()
        except BaseException:
            self._open = False
            raise

    def check(self) -> None:
        """Make the album if it is not there, then see that studies can be searched in it."""
        self._makes = True
        super().check()

    _makes = False

    def _find(self) -> None:
        node = self.node
        assert isinstance(node, KheopsNode)
        if not node.album:
            return
        reply = self.ask("GET", "/albums", [("name", node.album)], accept="application/json")
        found = [one for one in _list(reply.body) if one.get("name") == node.album]
        if len(found) > 1:
            raise DestinationRefused(f"{node.name}: there are several albums of the name in album; rename all but one")
        if not found and self._makes:
            body = Streamed([urlencode({"name": node.album}).encode()])
            kind = "application/x-www-form-urlencoded"
            reply = self.ask("POST", "/albums", body=body, accept="application/json", Content_Type=kind)
            found = _list(b"[" + reply.body + b"]")
        if not found or not found[0].get("album_id"):
            raise DestinationRefused(f"{node.name}: there is no such album, and it could not be made")
        self.scope = [("album", str(found[0]["album_id"]))]


def _list(body: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(body or b"[]")
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
