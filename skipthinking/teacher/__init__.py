"""Rationales from a teacher, the room of ``teach``.

Start with ``job.py`` (the complete job), then ``client.py`` (requests and replies), ``dispatch.py`` (concurrency) and
``completion_log.py`` (what a stopped run resumes from). The teachers are ``endpoint.py`` and ``local.py``; their
input is made in ``prompts.py``, and their output is graded and selected in ``choosing.py``. May import: the ground,
tasks, data, students; torch only inside the functions of ``local.py``.
"""
