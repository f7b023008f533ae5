"""Episodes as TensorFlow Datasets (RLDS), written and read without TensorFlow."""
