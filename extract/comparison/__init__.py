"""DALI against PyAV on the user's own videos."""
