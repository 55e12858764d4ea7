"""Notices what arrives in the inbox, by events and by scans, and queues it; it decides nothing else."""
