"""The simulator node and its driver emulators, which offer the topics, services and actions of the real arms' drivers.

May import `nodes.common`, `sim`, `robots` and the other pure packages, but no other node.
"""
