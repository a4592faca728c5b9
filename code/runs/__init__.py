"""Who made what from what: the stages' common ground."""
