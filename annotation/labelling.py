"""Label configurations of Label Studio: read, written, and the project's labels matched with a model's.

A project labels one text with one ``Labels`` tag::

    <View>
      <Labels name="label" toName="text"><Label value="Symptom"/></Labels>
      <Text name="text" value="$text"/>
    </View>
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from common.data.labels import normalise_type
from common.errors import InputError

COLOURS = ("#e41a1c", "#377eb8", "#4daf4a", "#984ea3", "#ff7f00", "#a65628", "#f781bf", "#66c2a5", "#999999")
"""ColorBrewer's Set1, its yellow (unreadable behind text) replaced."""
_HOTKEYS = "123456789"


@dataclass(frozen=True)
class Labelling:
    """What a label configuration says."""

    from_name: str
    """Name of the ``Labels`` tag."""
    to_name: str
    """Name of the ``Text`` tag."""
    field: str
    """Field of a task's data that holds the text."""
    labels: tuple[str, ...]
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Label by alias; the editor writes an alias where there is one."""

    def label(self, name: str) -> str | None:
        """The label that a name means: itself, its alias, or the same words written in another way; None if none."""
        if name in self.labels:
            return name
        if name in self.aliases:
            return self.aliases[name]
        return next((label for label in self.labels if _key(label) == _key(name)), None)

    def types(self) -> tuple[str, ...]:
        """The labels as the entity types that a model is asked for."""
        return tuple(map(spoken, self.labels))


def spoken(label: str) -> str:
    """A label in words that an encoder has seen: ``medical procedure`` for ``MedicalProcedure``."""
    return normalise_type(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label))


def _key(name: str) -> str:
    return normalise_type(name).replace(" ", "")


def parse_labelling(xml: str) -> Labelling:
    """Reads a label configuration.

    Raises:
        InputError: If it is no XML, or not one ``Labels`` with labels of its own over one ``Text``.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", xml):
        raise InputError("label configuration: declares a document type, which none needs")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, UnicodeEncodeError) as error:
        raise InputError(f"label configuration: is no XML: {error}") from None
    groups, texts = root.findall(".//Labels"), root.findall(".//Text")
    if len(groups) != 1 or len(texts) != 1:
        raise InputError(
            f"label configuration: needs one <Labels> over one <Text>, has {_named(groups)} and {_named(texts)}"
        )
    group, text = groups[0].attrib, texts[0].attrib
    source = text.get("value", "")
    if not (group.get("name") and text.get("name")) or group.get("toName") != text["name"]:
        raise InputError(
            f"label configuration: <Labels> is over {group.get('toName')!r}, the text is {text.get('name')!r}"
        )
    if not re.fullmatch(r"\$\w+", source):
        raise InputError(f"label configuration: the value of <Text> must name a field, as in $text, got {source!r}")
    items = [item.attrib for item in groups[0].findall(".//Label")]
    labels = tuple(item.get("value", "") for item in items)
    if not labels or not all(labels):
        raise InputError("label configuration: <Labels> has no <Label value=...>")
    keys = [_key(label) for label in labels]
    twice = next((label for label, key in zip(labels, keys, strict=True) if keys.count(key) > 1), None)
    if twice is not None:
        raise InputError(f"label configuration: label {twice!r} is there twice")
    aliases = {item["alias"]: item["value"] for item in items if item.get("alias")}
    return Labelling(group["name"], text["name"], source[1:], labels, aliases)


def _named(tags: Sequence[ElementTree.Element]) -> str:
    names = [tag.get("name", "?") for tag in tags]
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def label_config(labels: Sequence[str], text_field: str = "text") -> str:
    """A label configuration with a colour and, for the first nine labels, a digit as hotkey.

    Raises:
        InputError: If there is no label, or two are the same words.
    """
    root = ElementTree.Element("View")
    group = ElementTree.SubElement(root, "Labels", name="label", toName="text")
    for number, label in enumerate(labels):
        hotkey = {"hotkey": _HOTKEYS[number]} if number < len(_HOTKEYS) else {}
        background = COLOURS[number % len(COLOURS)]
        ElementTree.SubElement(group, "Label", {"value": label, "background": background, **hotkey})
    ElementTree.SubElement(root, "Text", name="text", value=f"${text_field}")
    ElementTree.indent(root)
    xml = ElementTree.tostring(root, encoding="unicode") + "\n"
    parse_labelling(xml)
    return xml
