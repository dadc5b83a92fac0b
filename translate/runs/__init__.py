"""Runs on the disk: the run folder, its checkpoints, the release one gives away, the records of what happened."""
