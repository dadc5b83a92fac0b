"""What is this checkpoint of another project, and what is it here? And the way back.

Who calls whom:

    in     importing → reading (a file's tensors, by a process that can do nothing else) → scanning (what a file is and
           what it would run, without running it); evidence (keys and shapes say which generator it is); mapping
    out    exporting → mapping
    both   mapping pairs every convolution of ours with the names that the other project gives it

`translate.training` asks `importing` for the weights that a training starts from.
"""
