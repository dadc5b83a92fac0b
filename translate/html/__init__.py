"""What all pages look like: their style, the before/after slider and its script, as templates that other wings use."""
