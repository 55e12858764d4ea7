"""The unit that starts darkroom at boot, and what the running service reports to systemd."""
