"""The sentence put to the language model."""

from __future__ import annotations

from typing import Literal, get_args

PromptStyle = Literal["openvla", "vicuna"]

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def build_prompt(instruction: str, style: PromptStyle = "openvla") -> str:
    """The prompt for `instruction`, up to where the action begins.

    `openvla` is what every released checkpoint uses except the `v01` ones, which use `vicuna`
    (reference: vla-scripts/deploy.py, get_openvla_prompt). Instructions are lower-cased, as in training.
    """
    if not instruction.strip():
        raise ValueError("instruction: expected a sentence, got an empty string")
    question = f"What action should the robot take to {instruction.lower()}?"
    if style == "openvla":
        return f"In: {question}\nOut:"
    if style == "vicuna":
        return f"{_VICUNA_SYSTEM} USER: {question} ASSISTANT:"
    raise ValueError(f"prompt style: {style!r} is unknown; choose one of {', '.join(get_args(PromptStyle))}")
