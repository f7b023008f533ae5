"""The parameters of every node in the graph, for the bag: asked for once a node appears, kept up to date by events."""

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


class NodeParameters:
    """`values`: node's full name -> parameter -> value. `changed(name)` is called when one node's are known anew."""

    def __init__(self, node: Node, changed: Callable[[str], None]) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        self._node, self._changed = node, changed
        self._asked: dict[str, list[Any]] = {}  # node -> the clients it is asked with
        self._events = node.create_subscription(
            ParameterEvent, "/parameter_events", self._on_event, qos_profile_parameter_events
        )

    def look(self) -> None:
        """Ask the nodes that are new; forget those that are gone. Does not wait."""
        there = {
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in self._node.get_node_names_and_namespaces()
            if not name.startswith("_")
        }
        for gone in self._asked.keys() - there:
            self._drop(gone)
        for name in there - self._asked.keys():
            lister = self._node.create_client(ListParameters, f"{name}/list_parameters")
            getter = self._node.create_client(GetParameters, f"{name}/get_parameters")
            self._asked[name] = [lister, getter]
        for name, clients in self._asked.items():
            if name not in self.values and len(clients) == 2 and all(c.service_is_ready() for c in clients):
                lister, getter = clients
                clients.append("asked")
                future = lister.call_async(ListParameters.Request(depth=ListParameters.Request.DEPTH_RECURSIVE))
                future.add_done_callback(lambda done, n=name, g=getter: self._listed(n, g, done.result()))

    @property
    def silent(self) -> list[str]:
        """Nodes that have not told their parameters."""
        return sorted(self._asked.keys() - self.values.keys())

    def text(self, name: str) -> str:
        """One node's parameters as the JSON that stands in the bag."""
        return json.dumps({"node": name, "parameters": self.values[name]}, sort_keys=True)

    def close(self) -> None:
        """Drop clients and subscription."""
        for name in list(self._asked):
            self._drop(name)
        self._node.destroy_subscription(self._events)

    def _drop(self, name: str) -> None:
        for client in self._asked.pop(name)[:2]:
            self._node.destroy_client(client)
        self.values.pop(name, None)

    def _listed(self, name: str, getter: Any, answer: Any) -> None:
        names = list(answer.result.names)
        if name not in self._asked:
            return  # gone meanwhile
        future = getter.call_async(GetParameters.Request(names=names))
        future.add_done_callback(lambda done: self._got(name, names, done.result()))

    def _got(self, name: str, names: list[str], answer: Any) -> None:
        if name in self._asked:
            self._take(name, dict(zip(names, answer.values, strict=False)))

    def _on_event(self, event: ParameterEvent) -> None:
        if event.node in self.values:
            changed = [*event.new_parameters, *event.changed_parameters]
            for deleted in event.deleted_parameters:
                self.values[event.node].pop(deleted.name, None)
            self._take(event.node, {p.name: p.value for p in changed})

    def _take(self, name: str, values: dict[str, Any]) -> None:
        kept = self.values.setdefault(name, {})
        for parameter, value in values.items():
            plain = parameter_value_to_python(value)
            if not isinstance(plain, (bool, int, float, str, type(None))):
                plain = list(plain)  # an array.array
            kept[parameter] = "(hidden)" if SECRET.search(parameter) and plain else plain
        self._changed(name)
