"""What makes and judges policies: datasets, training and evaluation."""
