"""The verbs of the command line, each a call into the rest of the room."""
