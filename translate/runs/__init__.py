"""What lies on the disk of a training, and who reads and writes it.

    folder.py       the run folder: its lock, its recipe, its memory plans, how it ended
    checkpoint.py   a run's state, in `checkpoints/<images>`:
                      written by   `save_checkpoint`, which `Run.save` in `translate/training/loop.py` calls
                      read by      `restore_checkpoint`, for `translate train --resume` and for the guard's way back
                      chosen by    `newest_checkpoint`, `best_checkpoint`, `healthy_checkpoint`
    progress.py     where a run stands: counts, the best score, whether it ends
    release.py      the folder of weights one gives away: `write_release` at the end of a training, and `load_release`,
                    with which `convert`, `evaluate` and `translate.load` read a generator from a release or a run
    manifest.py     how both are sealed and verified, and their tensors written and read
    records.py      what a run leaves to look at: metrics.jsonl, events.jsonl, samples/, and the trackers
"""
