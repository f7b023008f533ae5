"""Datasets and training, without ROS. May import openvla_policy and openvla_evaluation.

`bags` and `lerobot` convert recordings to RLDS and back, `rlds` reads, writes and inspects RLDS datasets, `openx`
describes the datasets of Open X-Embodiment, `trainer` trains.
"""
