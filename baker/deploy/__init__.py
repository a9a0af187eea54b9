"""Deployments: environments that serve one image each, blue/green. See "Deployments" in ARCHITECTURE.md."""
