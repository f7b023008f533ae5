"""`openvla-doctor`: checks of the machine, the configuration and a running stack."""
