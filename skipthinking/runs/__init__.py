"""What a run leaves in its folder while Lightning trains, and how it is stopped.

Start with ``folder.py`` (lock, config.yaml, when checkpoints are saved) and ``log.py`` (metrics.csv).
``callbacks.py`` writes answers, annotations and the summary, ``wandb_tables.py`` sends tables to W&B, ``signals.py``
and ``slurm.py`` stop a run so that it can be resumed. ``run_folder.py`` is for runs from Python. May import methods and
the rooms before them; of the package, only ``command_line`` imports it.
"""
