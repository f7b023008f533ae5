"""RLDS datasets as files, written and read without TensorFlow; their statistics; the quality report in `inspect`."""
