"""What baker does inside a build instance: scripts that are sent to it, and what their answers mean.

Nothing here connects to anything. A builder returns the script, whoever holds the connection runs
``script.INTERPRETER`` as root with it on stdin, and the parser beside the builder reads the result.
``sent/`` holds the modules that run there: Python 3.6, standard library only.
"""
