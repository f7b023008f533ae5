"""What policies, datasets and robots agree on: observations, actions, prompts, images, statistics, grippers.

Imports nothing of this package, and of torch only what image preparation needs.
"""
