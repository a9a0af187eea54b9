"""The nouns of the command line; the modules beside this one add their verbs."""

from __future__ import annotations

import typer

image = typer.Typer(no_args_is_help=True, help="List, inspect, compare, find and retire images.")
channel = typer.Typer(no_args_is_help=True, help="List channels, their history and what protects them.")
lease = typer.Typer(no_args_is_help=True, help="Claim images, so that they are not pruned.")
env = typer.Typer(
    no_args_is_help=True, help="List, inspect, roll back, promote, audit and remove environments."
)
catalog = typer.Typer(no_args_is_help=True, help="Inspect, move and rebuild the catalog.")

NOUNS = {"catalog": catalog, "channel": channel, "env": env, "image": image, "lease": lease}
