"""From files to batches: rows, examples, token ids, chunks, batches, and the LightningDataModule over them.

Start with ``module.py`` (RationaleDataModule), then follow an example: ``sources.py`` (a task, files or the hub),
``rows.py`` (files to rows), ``formats.py`` (a row to its fields; with ``fields.py``, the table of keys, and
``questions.py``, the question of a row), ``importing.py`` (rows to examples), ``splits.py`` (training, validation,
test), ``encoding.py`` with ``steps.py`` (examples to token ids), ``chunkers.py``, ``instances.py``, ``planning.py`` and
``batches.py``. May import: the ground, tasks, annotate.
"""
