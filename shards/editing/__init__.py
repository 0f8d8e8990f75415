"""Edited copies of videos, with the true matching segments written beside them."""
