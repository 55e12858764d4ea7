"""Where files go, and how: names, moves that overwrite nothing, the journal, and what a crash leaves behind."""
