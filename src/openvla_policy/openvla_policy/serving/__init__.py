"""The policy over HTTP: a server that existing OpenVLA clients can call, and a client that is a Policy."""
