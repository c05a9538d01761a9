"""The kinds of files that a model can be exported to, a module each."""
