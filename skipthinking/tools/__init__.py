"""Commands that read and write data files without a student."""
