"""From a model to a predictor: decoding, precision, and the policy that runs in this process."""
