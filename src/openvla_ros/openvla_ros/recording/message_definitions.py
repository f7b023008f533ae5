"""Message definitions for the bag, from the `.msg` files of the installed packages.

A bag that contains them can be read years later, on a machine without ROS and without this stack.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore


class UnknownType(Exception):
    """A message type whose definition is not found."""


def share_folders() -> list[Path]:
    """The share folders of the sourced ROS installations, overlays first."""
    return [Path(prefix) / "share" for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]


class MessageDefinitions:
    """A typestore with Jazzy's own types that adds other types on request.

    Attributes:
        store: The typestore.
    """

    def __init__(self, shares: Iterable[Path] | None = None) -> None:
        """Start with Jazzy's own types.

        Args:
            shares: Folders with `<package>/msg/<Name>.msg`; None for `share_folders()`.
        """
        self._shares = list(share_folders() if shares is None else shares)
        self.store: Typestore = get_typestore(Stores.ROS2_JAZZY)

    def ensure(self, msgtype: str) -> Typestore:
        """Add a type and the types of its fields.

        Args:
            msgtype: `package/msg/Name`.

        Returns:
            The typestore, which has them.

        Raises:
            UnknownType: There is no `.msg` file for it or for a type inside it.
        """
        pending = [msgtype]
        found = {}
        while pending:
            name = pending.pop()
            if name in self.store.fielddefs or name in found:
                continue
            types = get_types_from_msg(self._text(name, msgtype), name)
            found.update(types)
            for _, fields in types.values():
                pending.extend(_names(fields))
        if found:
            self.store.register(found)
        return self.store

    def _text(self, name: str, wanted_for: str) -> str:
        package, _, short = name.partition("/msg/")
        for share in self._shares:
            path = share / package / "msg" / f"{short}.msg"
            if path.is_file():
                return path.read_text("utf-8")
        inside = "" if name == wanted_for else f" (part of {wanted_for})"
        looked = os.pathsep.join(map(str, self._shares)) or "an empty AMENT_PREFIX_PATH"
        raise UnknownType(
            f"no definition of {name}{inside}: no {package}/msg/{short}.msg in {looked}; source its package"
        )


def _names(fields: object) -> Iterable[str]:
    """Message types that the fields of a parsed definition refer to."""
    # rosbags: a field is (name, (kind, what)); kind NAME refers to a type, arrays and sequences hold such a pair.
    for _, (kind, what) in fields:  # type: ignore[attr-defined]
        while kind.name in ("ARRAY", "SEQUENCE"):
            kind, what = what[0]
        if kind.name == "NAME":
            yield what
