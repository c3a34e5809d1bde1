"""One trial: its data, its training in short updates, its speed."""
