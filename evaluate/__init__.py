"""Matches and ground truth in, scores and a report out."""
