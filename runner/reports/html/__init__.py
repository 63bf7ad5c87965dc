"""Reports to open in a browser: one file each, which needs no server and no network.

A page is made in two steps. A view model (``run_page``, ``suite_page``) says what is on it, as a pure function of the
facts; ``render`` puts it into a template.
"""
