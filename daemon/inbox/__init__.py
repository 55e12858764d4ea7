"""Notices what lands in the inbox, by events and by looking, and tells the queue; it decides nothing else."""
