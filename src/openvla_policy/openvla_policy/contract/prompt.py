"""The prompt for the language model."""

from __future__ import annotations

from typing import Literal, get_args

PromptStyle = Literal["openvla", "vicuna"]

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def build_prompt(instruction: str, style: PromptStyle = "openvla") -> str:
    """Build the prompt of an instruction, up to where the action begins.

    Args:
        instruction: The task in words; lower-cased, as in training.
        style: `openvla` for every released checkpoint except the `v01` ones, which use `vicuna` (reference:
            vla-scripts/deploy.py, get_openvla_prompt).

    Returns:
        The prompt.

    Raises:
        ValueError: The instruction is empty or the style unknown.
    """
    if not instruction.strip():
        raise ValueError("instruction: expected a sentence, got an empty string")
    question = f"What action should the robot take to {instruction.lower()}?"
    if style == "openvla":
        return f"In: {question}\nOut:"
    if style == "vicuna":
        return f"{_VICUNA_SYSTEM} USER: {question} ASSISTANT:"
    raise ValueError(f"prompt style: {style!r} is unknown; choose one of {', '.join(get_args(PromptStyle))}")
