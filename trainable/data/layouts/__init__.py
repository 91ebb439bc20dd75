"""One module per layout that public data sets, and people, use."""
