"""Applies a recipe to a machine with pyinfra, and image tests with testinfra, in a sandboxed child process.

The parent side (``parent``, ``image_tests``) never imports pyinfra, testinfra or the recipe; the child side
(``child``, ``test_child``) never enters the machine: it asks the parent to, over one socket (``wire``).
"""
