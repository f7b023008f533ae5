"""Tasks as data: objects, sentences, seeds for training and for evaluation. Imports no other part of this project."""
