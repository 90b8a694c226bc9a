"""Rationales from a teacher: what is asked, of whom, what is written down at once, and what is kept."""
