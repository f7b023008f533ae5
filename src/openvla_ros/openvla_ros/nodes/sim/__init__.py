"""The simulator node and its driver emulators, which speak the topics of the real arms' drivers."""
