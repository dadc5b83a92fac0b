"""Training: the loop over stages, a step's machinery, the memory planner, the guard, and what a run tells of itself.

Who calls whom:

    loop            train(): the stages, batches and steps of a run; calls all of the others
    a batch         supply                                 each process's share; what one cannot read, all hear of
    networks        built                                  in the shape of a stage, with their optimizers
    a step          update → undo, draws, processes        what `Translator.step` asks of the machinery
    memory          memory_plans → plan → step_on_meta     which plan a stage trains under; recipe_plan, for
                                                           `translate plan`, calls plan as well
    time            plan → speeds → gpus; hours            how long a step takes, and when a training ends
    collapse        guard, by the numbers of probe         whether a training is lost, and since when
    records         logbook → probe, machine               losses, scores, pictures, status and report

`Run.save` in `loop` writes a checkpoint: before the first step (with a guard); at every `every.checkpoint` images; when
an evaluation is the best so far; at the end; on SIGTERM and SIGINT; before a fault of reading ends the training; after
a rollback, in place of the one it went back to; and in `Run.begin`, when a resume catches up on an evaluation and it is
the best.
"""
