"""The report pages: HTML files that open offline, and plots beside them."""
