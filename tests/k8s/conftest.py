"""Reads each schema once, not once for each object: half of them are a megabyte of definitions."""

from functools import cache

from kubernetes_validate import utils

utils.schema_contents = cache(utils.schema_contents)
