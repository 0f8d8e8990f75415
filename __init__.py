"""Reelkin finds every video that shows what a given video shows."""
