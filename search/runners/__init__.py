"""Where trials run: in this process or on Ray, with slots, faults and signals.

May import search.engine, search.store and, alone in this package, ray.
"""
