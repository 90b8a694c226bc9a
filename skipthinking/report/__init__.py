"""Reads what runs leave behind; no torch."""
