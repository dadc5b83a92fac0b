"""Work given out to the machines of a cluster, whatever it is.

    ray_engine   a connection to a Ray cluster, and the workers there
    scheduling   which of them gets what next, and who takes over what a dead one had
"""
