"""How fast policies are trained here, and in how much memory, beside a plain transformers + peft loop."""
