"""Camera messages to RGB pictures: the policy library's function, so that robot and conversion share it."""

from openvla_policy.contract.camera import PIXEL_BYTES, Picture, encode_jpeg, to_rgb

__all__ = ["PIXEL_BYTES", "Picture", "encode_jpeg", "to_rgb"]
