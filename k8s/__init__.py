"""The GPU catalogue, manifest rendering, deploy. Imports nothing of ours."""
