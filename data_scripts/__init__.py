"""Scripts that turn a download on disk into a prepared folder (see ``lib.data.prepared``)."""
