"""The .xmp beside each filed photo: what it says, and how it is read and written."""
