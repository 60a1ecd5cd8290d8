"""Sessions of other frameworks, kept in Everlog: one module a framework, each an extra. None imports another."""
