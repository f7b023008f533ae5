"""The client needs NumPy and its transport's library, but not torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Fails every import outside the standard library, this package and `sys.argv[1]`.
BLOCKER = """
import sys

allowed = {"openvla_policy", "numpy", *sys.argv[1].split(",")}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
"""
HTTPX = "httpx,httpcore,h11,anyio,sniffio,idna,certifi,typing_extensions"
SCRIPT = """
import numpy as np
from openvla_policy.contract.observation import Observation
from openvla_policy.serving import connect

for name in ("torch", "transformers", "tokenizers"):
    assert name not in sys.modules, name
client = connect(sys.argv[2], timeout=1.0)
try:
    client.predict(Observation(np.zeros((8, 8, 3), np.uint8)), "lift the cube")
except ConnectionError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("url", "libraries"),
    [("http://127.0.0.1:9", HTTPX), ("ws://127.0.0.1:9", f"{HTTPX},websockets,msgpack")],
)
def test_a_client_needs_neither_torch_nor_transformers(url, libraries):
    command = [sys.executable, "-c", BLOCKER + SCRIPT, libraries, url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "ConnectionError\n", result.stderr
