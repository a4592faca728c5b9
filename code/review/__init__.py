"""What a run's results show, as one page to look at and listen to."""
