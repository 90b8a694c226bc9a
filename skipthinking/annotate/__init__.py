"""Annotators: what the student says of every training example, one value per example id."""
