"""The HTTP service: studies over the network, with the functions of the command line. Studies run outside its process."""
