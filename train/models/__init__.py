"""Aggregators: from a video's frame features to one embedding."""
