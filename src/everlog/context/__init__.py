"""Context: from a session without bounds to a model's window, with a record of what went in and what did not."""
