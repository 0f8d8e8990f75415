"""Painted scenes: videos made from nothing, for demonstrations and tests."""
