"""Time and memory of training steps, beside a plain transformers and peft loop."""
