"""A run of extraction: pieces of work, who does them, what they leave, and the whole."""
