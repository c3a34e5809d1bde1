"""Ray: sessions, jobs, adapters of the search, and checks of a cluster."""
