"""The HTTP service: studies over the network, through the same functions as the command line. Runs nothing itself."""
