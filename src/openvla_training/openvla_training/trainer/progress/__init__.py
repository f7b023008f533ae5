"""What a run shows of itself while it trains: the terminal, TensorBoard, plots. May import metrics and resources."""
