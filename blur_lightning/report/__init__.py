"""Pages that people read: the report of runs, its figures, and its form on W&B."""
