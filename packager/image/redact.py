"""config.yaml without the values of its secrets: an image is no place for them."""

import yaml

from packager.errors import ConfigError


def redact(text: str) -> str:
    """The same text, comments and all, with null for each value under `secrets:`. Raises ConfigError."""
    secrets = _secrets(yaml.compose(text, Loader=yaml.SafeLoader))
    wanted = yaml.safe_load(text)
    if not secrets:
        return text
    wanted["secrets"] = dict.fromkeys(wanted["secrets"])
    for node in sorted(secrets, key=lambda node: node.start_mark.index, reverse=True):
        start, end = node.start_mark.index, node.end_mark.index
        # A block scalar ends where the next line starts.
        null = "null\n" if text[start:end].endswith("\n") else "null"
        text = text[:start] + null + text[end:]
    if _parsed(text) != wanted:
        raise ConfigError(
            "secrets: a value in config.yaml cannot be kept out of the image", "Set each of them to null."
        )
    return text


def _secrets(root: yaml.Node | None) -> list[yaml.Node]:
    """The values under `secrets:` that are not null."""
    fields = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    secrets = fields.get("secrets")
    values = [value for _, value in secrets.value] if isinstance(secrets, yaml.MappingNode) else []
    return [value for value in values if not value.tag.endswith(":null")]


def _parsed(text: str) -> object:
    """None where the text is no YAML any more: an anchor went with the value it stood on."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
