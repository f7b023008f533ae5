"""Parameters of every node in the graph, for the bag: requested when a node appears, then updated by events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterEvent
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import qos_profile_parameter_events

SECRET = re.compile(r"password|secret|token|api_?key|credential", re.IGNORECASE)


class ParameterSnapshot:
    """Present parameters of all nodes.

    Attributes:
        values: Node's full name -> parameter -> value.
    """

    def __init__(self, node: Node, on_change: Callable[[str], None]) -> None:
        """Subscribe to changes.

        Args:
            node: Node that owns subscription and clients.
            on_change: Called with the name of a node whose parameters became known or changed.
        """
        self.values: dict[str, dict[str, Any]] = {}
        self._node, self._on_change = node, on_change
        self._clients: dict[str, list[Any]] = {}  # node -> its clients, and a mark once it was asked
        self._events = node.create_subscription(
            ParameterEvent, "/parameter_events", self._on_event, qos_profile_parameter_events
        )

    def update(self) -> None:
        """Request the parameters of new nodes and drop those of nodes that are gone. Does not wait."""
        present = {
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in self._node.get_node_names_and_namespaces()
            if not name.startswith("_")
        }
        for gone in self._clients.keys() - present:
            self._drop(gone)
        for name in present - self._clients.keys():
            lister = self._node.create_client(ListParameters, f"{name}/list_parameters")
            getter = self._node.create_client(GetParameters, f"{name}/get_parameters")
            self._clients[name] = [lister, getter]
        for name, clients in self._clients.items():
            if name not in self.values and len(clients) == 2 and all(c.service_is_ready() for c in clients):
                lister, getter = clients
                clients.append("asked")
                future = lister.call_async(ListParameters.Request(depth=ListParameters.Request.DEPTH_RECURSIVE))
                future.add_done_callback(lambda done, n=name, g=getter: self._listed(n, g, done.result()))

    @property
    def silent(self) -> list[str]:
        """Nodes whose parameters are not known."""
        return sorted(self._clients.keys() - self.values.keys())

    def text(self, name: str) -> str:
        """Parameters of one node as the JSON of the bag."""
        return json.dumps({"node": name, "parameters": self.values[name]}, sort_keys=True)

    def close(self) -> None:
        """Destroy clients and subscription."""
        for name in list(self._clients):
            self._drop(name)
        self._node.destroy_subscription(self._events)

    def _drop(self, name: str) -> None:
        for client in self._clients.pop(name)[:2]:
            self._node.destroy_client(client)
        self.values.pop(name, None)

    def _listed(self, name: str, getter: Any, answer: Any) -> None:
        names = list(answer.result.names)
        if name not in self._clients:
            return  # the node is gone
        future = getter.call_async(GetParameters.Request(names=names))
        future.add_done_callback(lambda done: self._received(name, names, done.result()))

    def _received(self, name: str, names: list[str], answer: Any) -> None:
        if name in self._clients:
            self._update_values(name, dict(zip(names, answer.values, strict=False)))

    def _on_event(self, event: ParameterEvent) -> None:
        if event.node in self.values:
            changed = [*event.new_parameters, *event.changed_parameters]
            for deleted in event.deleted_parameters:
                self.values[event.node].pop(deleted.name, None)
            self._update_values(event.node, {p.name: p.value for p in changed})

    def _update_values(self, name: str, values: dict[str, Any]) -> None:
        kept = self.values.setdefault(name, {})
        for parameter, value in values.items():
            plain = parameter_value_to_python(value)
            if not isinstance(plain, (bool, int, float, str, type(None))):
                plain = list(plain)  # an array.array
            kept[parameter] = "(hidden)" if SECRET.search(parameter) and plain else plain
        self._on_change(name)
