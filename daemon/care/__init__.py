"""What is done with the folders after filing: verify, rebuild, undo, explain."""
