"""Frames of the demo video, the contact sheet and the confusion table, drawn with Pillow; needs no display."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openvla_evaluation.report.outcomes import FAULT, INTERRUPTED, SUCCESS, Confusion, Episode, Step

BACKGROUND, PANEL, GRID = (17, 20, 26), (26, 30, 38), (52, 58, 70)
TEXT, FAINT, ACCENT = (236, 239, 244), (139, 148, 163), (96, 165, 250)
GOOD, BAD, ODD = (52, 199, 120), (239, 98, 98), (240, 180, 70)
COLOURS = {"red": (226, 74, 74), "green": (70, 190, 100), "blue": (80, 130, 240)}

VIDEO_SIZE = (960, 540)  # width, height; even, as H.264 in browsers wants
SIDE = VIDEO_SIZE[1]
MARGIN = 26
SHEET_FRAMES = 6  # of an episode on the contact sheet
FULL_TRANSLATION, FULL_ROTATION = 60.0, 18.0  # a full bar [mm], [deg]


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load Pillow's own font, so that pictures are the same on every machine."""
    return ImageFont.load_default(size)


def outcome_colour(outcome: str) -> tuple[int, int, int]:
    """Return green for success, amber for a fault or an interruption, red for a failure."""
    if outcome == SUCCESS:
        return GOOD
    return ODD if outcome in (FAULT, INTERRUPTED) else BAD


@dataclass(frozen=True)
class Caption:
    """Text beside the camera image in the video; the same for a whole episode."""

    title: str  # e.g. the policy's name
    episode: int
    episodes: int
    seed: int
    instruction: str
    target: str


def draw_frame(image: np.ndarray, step: Step, number: int, caption: Caption, outcome: str = "") -> np.ndarray:
    """Draw one video frame: a camera image, and beside it the instruction and the action.

    Args:
        image: uint8 RGB (H, W, 3) of any size.
        step: The prediction that was executed when the image was taken.
        number: The step's number in the episode, from 1.
        caption: Text of the episode.
        outcome: The verdict to show on the image; '' for none.

    Returns:
        uint8 RGB (540, 960, 3).
    """
    canvas = Image.new("RGB", VIDEO_SIZE, BACKGROUND)
    canvas.paste(_fit(image, SIDE, SIDE), (0, 0))
    draw = ImageDraw.Draw(canvas)
    left, right, y = SIDE + MARGIN, VIDEO_SIZE[0] - MARGIN, 24

    draw.text((left, y), caption.title, font=font(17), fill=ACCENT)
    place = f"episode {caption.episode} / {caption.episodes}   seed {caption.seed}"
    draw.text((left, y + 24), place, font=font(15), fill=FAINT)
    y += 58
    draw.rectangle((left, y + 4, left + 5, y + 60), fill=COLOURS.get(caption.target, ACCENT))
    lines = textwrap.wrap(caption.instruction, 24)[:2] or [""]
    for index, line in enumerate(lines):
        draw.text((left + 18, y + index * 32 + (16 if len(lines) == 1 else 0)), line, font=font(26), fill=TEXT)
    y += 82

    millimetres, degrees = step.action[:3] * 1000.0, np.degrees(step.action[3:6])
    draw.text((left, y), "predicted action", font=font(15), fill=FAINT)
    y += 26
    for name, value in zip(("x", "y", "z"), millimetres, strict=True):
        _bar(draw, left, right, y, name, value, FULL_TRANSLATION, f"{value:+.1f} mm")
        y += 28
    y += 6
    for name, value in zip(("roll", "pitch", "yaw"), degrees, strict=True):
        _bar(draw, left, right, y, name, value, FULL_ROTATION, f"{value:+.1f}°")
        y += 28
    y += 6
    _gripper(draw, left, right, y, float(step.action[6]))

    foot = SIDE - 58
    draw.line((left, foot - 14, right, foot - 14), fill=GRID)
    for offset, (label, value) in zip(
        (0, 100, 200),
        (
            ("step", f"{number}"),
            ("rate", f"{step.rate:.1f} Hz" if step.rate else "–"),
            ("latency", f"{1000 * step.latency:.0f} ms"),
        ),
        strict=True,
    ):
        draw.text((left + offset, foot), label, font=font(13), fill=FAINT)
        draw.text((left + offset, foot + 16), value, font=font(20), fill=TEXT)
    if outcome:
        _badge(draw, 16, SIDE - 56, outcome)
    return np.asarray(canvas)


def contact_sheet(episodes: Sequence[Episode], title: str) -> Image.Image:
    """Draw each episode as one strip of frames over time, with instruction, seed and verdict beside it.

    Args:
        episodes: The episodes; those without frames are left out.
        title: The sheet's title.

    Returns:
        The picture: one column of strips, two where there are more than 12 episodes.
    """
    episodes = [episode for episode in episodes if episode.steps]
    frames = SHEET_FRAMES if len(episodes) <= 12 else SHEET_FRAMES // 2
    columns = 1 if len(episodes) <= 12 else 2
    tile, gap, label, head = (150 if columns == 1 else 110), 6, 230, 62
    strip = label + frames * (tile + gap) + 2 * gap
    rows = max(1, -(-len(episodes) // columns))
    sheet = Image.new("RGB", (columns * strip + 2 * gap, head + rows * (tile + 2 * gap) + gap), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((18, 18), title, font=font(24), fill=TEXT)
    for index, episode in enumerate(episodes):
        x, y = gap + (index % columns) * strip, head + (index // columns) * (tile + 2 * gap)
        colour = outcome_colour(episode.outcome)
        draw.rectangle((x, y, x + strip - 2 * gap, y + tile + gap), fill=PANEL)
        draw.rectangle((x, y, x + 5, y + tile + gap), fill=colour)
        lines = textwrap.wrap(episode.instruction, 22)[:2]
        for row, line in enumerate(lines):
            draw.text((x + 18, y + 12 + 22 * row), line, font=font(18), fill=TEXT)
        below = y + 18 + 22 * len(lines)
        verdict = episode.outcome
        if episode.lifted and episode.outcome != SUCCESS:
            verdict += f": {' + '.join(episode.lifted)}"
        draw.text((x + 18, below), verdict, font=font(16), fill=colour)
        draw.text((x + 18, below + 22), f"{episode.count} steps, seed {episode.seed}", font=font(14), fill=FAINT)
        images = [image for step in episode.steps for image in step.images]
        for column, image in enumerate(_spaced(images, frames)):
            sheet.paste(_fit(image, tile, tile), (x + label + column * (tile + gap), y + gap // 2))
    return sheet


def confusion_picture(table: Confusion, title: str) -> Image.Image:
    """Draw the table of instructed by lifted object; right answers green, others red, by their share of the row."""
    cell, left, head = 104, 150, 118
    width = max(left + len(table.columns) * cell + 30, 720)
    picture = Image.new("RGB", (width, head + len(table.objects) * cell + 30), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((24, 18), title, font=font(22), fill=TEXT)
    draw.text((24, 52), f"named object lifted: {table.grounded}", font=font(17), fill=FAINT)
    draw.text((24, head - 30), "instructed", font=font(15), fill=FAINT)
    for column, name in enumerate(table.columns):
        draw.text(
            (left + (column + 0.5) * cell, head - 20),
            name,
            font=font(17),
            anchor="mm",
            fill=COLOURS.get(name, FAINT),
        )
    for row, name in enumerate(table.objects):
        y = head + row * cell
        draw.text((24, y + cell / 2), name, font=font(20), anchor="lm", fill=COLOURS.get(name, TEXT))
        total = max(1, int(table.counts[row].sum()))
        for column, count in enumerate(table.counts[row]):
            x = left + column * cell
            share, base = count / total, GOOD if column == row else BAD
            fill = tuple(round(a + (b - a) * share) for a, b in zip(PANEL, base, strict=True))
            draw.rectangle((x, y, x + cell - 6, y + cell - 6), fill=fill)
            centre = (x + (cell - 6) / 2, y + (cell - 6) / 2)
            draw.text(centre, str(count), font=font(28), anchor="mm", fill=TEXT if count else FAINT)
    return picture


def _fit(image: np.ndarray, width: int, height: int) -> Image.Image:
    """Scale an image to cover the box and crop its centre, so that images of any aspect ratio stay undistorted."""
    picture = Image.fromarray(image)
    scale = max(width / picture.width, height / picture.height)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((x, y, x + width, y + height))


def _spaced(images: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Pick `count` images, evenly spaced from the first to the last one."""
    return [images[round(position)] for position in np.linspace(0, len(images) - 1, count)]


def _bar(
    draw: ImageDraw.ImageDraw, left: int, right: int, y: int, name: str, value: float, limit: float, text: str
) -> None:
    """Draw a signed bar about its middle, full at ±limit."""
    start, end = left + 52, right - 84
    middle = (start + end) / 2
    reach = float(np.clip(value / limit, -1.0, 1.0)) * (end - start) / 2
    draw.text((left, y + 9), name, font=font(15), anchor="lm", fill=FAINT)
    draw.rounded_rectangle((start, y, end, y + 18), 4, fill=PANEL)
    draw.rectangle((min(middle, middle + reach), y + 3, max(middle, middle + reach), y + 15), fill=ACCENT)
    draw.line((middle, y, middle, y + 18), fill=FAINT)
    draw.text((right, y + 9), text, font=font(15), anchor="rm", fill=TEXT)


def _gripper(draw: ImageDraw.ImageDraw, left: int, right: int, y: int, opening: float) -> None:
    """Draw two fingers, apart by the commanded opening."""
    start, end = left + 52, right - 84
    middle, half = (start + end) / 2, float(np.clip(opening, 0.0, 1.0)) * (end - start) / 2 * 0.9
    draw.text((left, y + 9), "grip", font=font(15), anchor="lm", fill=FAINT)
    draw.rounded_rectangle((start, y, end, y + 18), 4, fill=PANEL)
    for side in (-1, 1):
        x = middle + side * (half + 5)
        draw.rounded_rectangle((x - 5, y + 2, x + 5, y + 16), 3, fill=ODD)
    word = "open" if opening > 0.5 else "closed"
    draw.text((right, y + 9), f"{word} {opening:.2f}", font=font(15), anchor="rm", fill=TEXT)


def _badge(draw: ImageDraw.ImageDraw, x: int, y: int, outcome: str) -> None:
    width = draw.textlength(outcome, font=font(22)) + 36
    draw.rounded_rectangle((x, y, x + width, y + 40), 10, fill=outcome_colour(outcome))
    draw.text((x + width / 2, y + 20), outcome, font=font(22), anchor="mm", fill=(12, 16, 20))
