"""Serving a policy with several cameras, a state and chunks; and TLS."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from serving import IMAGE, checkpoint, listening

from openvla_policy.contract.observation import Observation
from openvla_policy.contract.statistics import compute
from openvla_policy.model.heads import OFTConfig, OFTHeads
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.oft_policy import OFTPolicy
from openvla_policy.serving import ServerRefused, connect
from openvla_policy.serving.http_server import PolicyServer


@pytest.fixture(scope="module")
def richer() -> OFTPolicy:
    rng = np.random.default_rng(0)
    statistics = {"libero": compute([rng.normal(size=(50, 7))], [rng.normal(size=(50, 8))])}
    torch.manual_seed(1)
    heads = OFTHeads(OFTConfig(images=2, chunk=4, proprio=8, cameras=("wrist",)), 32).eval()
    return OFTPolicy(replace(checkpoint(), statistics=statistics), heads)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_cameras_state_and_chunks_are_transmitted(richer, scheme):
    state = np.linspace(-1, 1, 8)
    whole = Observation(IMAGE, state=state, extra_images={"wrist": IMAGE[::-1].copy()})
    expected = richer.predict(whole, "lift the cube")
    with listening(PolicyServer(richer)) as address:
        client = connect(f"{scheme}://{address}", timeout=20.0)
        about = client.metadata()
        assert (about["extra_images"], about["state"], about["chunk"]) == (["wrist"], 8, 4)
        chunk = client.predict(whole, "lift the cube")
        assert chunk.actions.shape == (4, 7) and (chunk.actions == expected.actions).all()
        for observation, message in (
            (replace(whole, extra_images={}), "extra_images: this policy reads 'wrist', got none"),
            (replace(whole, state=None), "state: this policy reads 8 numbers, got none"),
            (replace(whole, state=state[:3]), "state: this policy reads 8 numbers, got 3"),
        ):
            with pytest.raises(ServerRefused, match=f"422, {message}"):
                client.predict(observation, "lift the cube")
        client.close()


def test_tls(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    policy = LocalPolicy(checkpoint(), key_per_request=True)
    expected = policy.predict_batch([Observation(IMAGE)], ["lift"], ["one"])[0].actions
    with listening(PolicyServer(policy), ssl_certfile=certificate, ssl_keyfile=key) as address:
        for scheme in ("https", "wss"):
            client = connect(f"{scheme}://{address}", unnorm_key="one", ca_file=certificate, timeout=20.0)
            assert (client.predict(Observation(IMAGE), "lift").actions == expected).all()
            client.close()
            with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
                connect(f"{scheme}://{address}", unnorm_key="one").predict(Observation(IMAGE), "lift")
