"""From run folders to tables, a page and figures: the commands ``compare``, ``show`` and ``summary``.

No torch, so that these commands start at once; pandas, matplotlib and jinja2 are imported where a file is written.
Start with ``run_folders.py`` (what a run leaves), then ``comparing.py`` (methods over seeds, with intervals).
``tables.py``, ``charts.py`` and ``page.py`` draw a comparison, ``annotations.py`` and ``show.py`` annotated examples.
May import: the ground and ``evaluation/intervals.py``.
"""
