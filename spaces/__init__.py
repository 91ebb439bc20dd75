"""Search spaces: YAML files, and the code that reads and validates them.

May import trainable's configuration and pyyaml; knows neither torch nor the search engine.
"""
