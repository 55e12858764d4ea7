"""The commands: a module each, with `main(config, args)` giving the exit code; loaded only when it is called."""
