"""From run folders to tables, a page and figures: the commands ``compare``, ``show`` and ``summary``.

No torch, so that these commands start at once; pandas, matplotlib and jinja2 are imported where a file is written.
Start with ``run_folders.py`` (what a run leaves), then ``grouping.py`` (runs of one method), ``comparing.py`` (methods
over seeds, with intervals) and ``against.py`` (a method against the baseline).
``tables.py``, ``charts.py`` (on ``canvas.py``) and ``page.py`` draw a comparison, ``annotations.py`` and ``show.py``
annotated examples; ``logs.py`` reads curves, ``answers.py`` draws the answers that the page shows.
May import: the ground and ``evaluation/intervals.py``.
"""
