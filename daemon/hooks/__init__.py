"""Who else is told of each image: a command or a web address, from a loop of its own."""
