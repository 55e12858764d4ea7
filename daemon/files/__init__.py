"""What is done with files, by anybody: opening, writing, naming, walking; no database and no configuration."""
