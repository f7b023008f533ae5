"""Proposals for misspelt names."""

from __future__ import annotations

from openvla_policy.suggestions import did_you_mean

OPTIONS = ["batch_size", "learning_rate", "steps"]


def test_similar_names_are_proposed():
    assert did_you_mean("batch_sise", OPTIONS) == "did you mean batch_size?"


def test_all_names_are_listed_when_none_is_similar():
    assert did_you_mean("zzz", OPTIONS) == "choose from batch_size, learning_rate, steps"


def test_a_long_list_can_be_replaced_by_a_reference():
    assert did_you_mean("zzz", OPTIONS, otherwise="see the table") == "see the table"
