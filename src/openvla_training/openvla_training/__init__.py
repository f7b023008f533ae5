"""What makes and judges policies: data sets, training and evaluation."""
