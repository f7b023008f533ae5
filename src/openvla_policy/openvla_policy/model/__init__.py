"""The network: plain torch, any size, the reference's parameter names. Knows no file and no topic."""
