"""What several nodes share: lifecycle base, QoS, conversions between messages and values, graph checks."""
