"""Training: the loop over stages, a step's machinery, the memory planner, the guard, and what a run tells of itself."""
