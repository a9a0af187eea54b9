"""Modules that run in a build instance: Python 3.6 and its standard library (RHEL 8 has nothing newer).

They import nothing but one another, by full name; ``baker.providers.aws.inside.script`` packs them.
"""
