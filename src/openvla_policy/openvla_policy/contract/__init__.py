"""What every policy agrees on: observation, action, prompt, image preparation, tokens, statistics."""
