"""Camera messages: colours and sizes of a known image survive every encoding."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from openvla_policy.contract.camera import PIXEL_BYTES, encode_jpeg, to_rgb

RED, GREEN, BLUE = (200, 30, 20), (25, 180, 40), (15, 45, 210)


def blocks(height: int = 32, width: int = 48) -> np.ndarray:
    """Three stripes of pure-ish colours: large areas, so that chroma subsampling and demosaicing cannot hide errors."""
    picture = np.zeros((height, width, 3), np.uint8)
    for i, colour in enumerate((RED, GREEN, BLUE)):
        picture[:, i * width // 3 : (i + 1) * width // 3] = colour
    return picture


def image(encoding: str, array: np.ndarray, padding: int = 0, **changes) -> SimpleNamespace:
    rows = array.reshape(array.shape[0], -1)
    rows = rows.view(np.uint8) if rows.dtype != np.uint8 else rows
    rows = np.concatenate([rows, np.full((len(rows), padding), 77, np.uint8)], axis=1)
    height = array.shape[0] * 2 // 3 if encoding.startswith("nv") else array.shape[0]
    fields = dict(encoding=encoding, height=height, width=array.shape[1], step=rows.shape[1], is_bigendian=0,
                  data=rows.tobytes())  # fmt: skip
    return SimpleNamespace(**(fields | changes))


def bayer(picture: np.ndarray, pattern: str) -> np.ndarray:
    channel = {"r": 0, "g": 1, "b": 2}
    out = np.zeros(picture.shape[:2], picture.dtype)
    for i, name in enumerate(pattern):
        out[i // 2 :: 2, i % 2 :: 2] = picture[i // 2 :: 2, i % 2 :: 2, channel[name]]
    return out


def yuv_packed(picture: np.ndarray, order: str) -> np.ndarray:
    ycc = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(int)
    y = 16 + ycc[..., 0] * 219 / 255
    u, v = 128 + (ycc[..., 2] - 128) * 224 / 255, 128 + (ycc[..., 1] - 128) * 224 / 255
    out = np.zeros((*picture.shape[:2], 2), np.uint8)
    chroma, luma = (0, 1) if order == "uyvy" else (1, 0)
    out[..., luma] = y.round()
    out[:, 0::2, chroma], out[:, 1::2, chroma] = u[:, 0::2].round(), v[:, 0::2].round()
    return out


def yuv_planar(picture: np.ndarray, order: str) -> np.ndarray:
    packed = yuv_packed(picture, "uyvy")
    chroma = np.zeros((picture.shape[0] // 2, picture.shape[1]), np.uint8)
    u, v = packed[0::2, 0::2, 0], packed[0::2, 1::2, 0]
    chroma[:, 0::2], chroma[:, 1::2] = (u, v) if order == "nv12" else (v, u)
    return np.concatenate([packed[..., 1], chroma])


def encoded(encoding: str, picture: np.ndarray) -> np.ndarray:
    alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    wide = picture.astype(np.uint16) * 257
    if encoding.startswith("bayer"):
        return bayer(wide if encoding.endswith("16") else picture, encoding.split("_")[1][:4])
    if encoding.startswith("nv"):
        return yuv_planar(picture, encoding)
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        return yuv_packed(picture, "uyvy" if encoding in ("yuv422", "uyvy") else "yuyv")
    table = {
        "rgb8": picture, "bgr8": picture[..., ::-1], "8UC3": picture[..., ::-1],
        "rgba8": np.concatenate([picture, alpha], 2), "bgra8": np.concatenate([picture[..., ::-1], alpha], 2),
        "8UC4": np.concatenate([picture[..., ::-1], alpha], 2), "mono8": grey, "8UC1": grey,
        "mono16": grey.astype(np.uint16) * 257, "16UC1": grey.astype(np.uint16) * 257,
        "rgb16": wide, "bgr16": wide[..., ::-1], "rgba16": np.concatenate([wide, alpha.astype(np.uint16) * 257], 2),
        "bgra16": np.concatenate([wide[..., ::-1], alpha.astype(np.uint16) * 257], 2),
    }  # fmt: skip
    return np.ascontiguousarray(table[encoding])


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", PIXEL_BYTES)
def test_every_encoding_decodes_to_the_image(encoding, padding):
    picture = blocks()
    got = to_rgb(image(encoding, encoded(encoding, picture), padding))
    assert got.shape == picture.shape and got.dtype == np.uint8 and got.flags.c_contiguous
    wanted = picture
    if "mono" in encoding or encoding.endswith("C1"):
        wanted = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for stripe in range(3):  # not at the edges between colours or at the border
        inside = np.s_[6:-6, stripe * 16 + 5 : stripe * 16 + 11]
        np.testing.assert_allclose(got[inside].astype(int), wanted[inside].astype(int), atol=4)


def test_rgb8_is_exact_with_padded_rows_and_a_last_row_without():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = image("rgb8", picture, padding=11)
    np.testing.assert_array_equal(to_rgb(message), picture)
    message.data = message.data[:-11]
    np.testing.assert_array_equal(to_rgb(message), picture)


def test_a_big_endian_16_bit_image():
    picture = blocks()
    message = image("rgb16", encoded("rgb16", picture).byteswap(), is_bigendian=1)
    np.testing.assert_allclose(to_rgb(message).astype(int), picture.astype(int), atol=1)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_compressed(extension):
    data = cv2.imencode(extension, blocks()[..., ::-1])[1].tobytes()
    got = to_rgb(SimpleNamespace(format=f"rgb8; {extension} compressed bgr8", data=data))
    np.testing.assert_allclose(got[8:-8, 4:12], blocks()[8:-8, 4:12], atol=12)


def test_an_encoded_jpeg_decodes():
    got = to_rgb(SimpleNamespace(format="jpeg", data=encode_jpeg(blocks(), 95)))
    assert np.abs(got[:, 4:12].astype(int) - blocks()[:, 4:12]).max() < 12


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (image("32FC1", blocks()), "'32FC1' is unknown; known: rgb8"),
        (image("rgb8", blocks(), data=b"123"), "needs 32 rows of 144 bytes; it has 3 bytes"),
        (image("rgb8", blocks(), step=10), "with step 10"),
        (image("rgb8", blocks(), height=0), "48 x 0 pixels"),
        (SimpleNamespace(format="jpeg", data=b"no picture"), "10 bytes, format 'jpeg', cannot be decoded"),
    ],
)
def test_undecodable_images_are_reported(message, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_rgb(message)
