"""Renders tables as Markdown, CSV and LaTeX: columns say how values are shown; texts are escaped last."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import write_text
from common.markdown import escape_markdown
from common.tables.results import MISSING

NONE, DAGGER, ONE_RUN = "-", "†", "¹"
"""Does not apply; trained on a part of the training sentences; an interval over the sentences of one run."""


@dataclass(frozen=True)
class Column:
    """How some values of a row are shown."""

    title: str
    names: str
    """Of the values, separated by spaces. Without the first one there is nothing to show."""
    form: str | Callable[..., str] = ""
    """The format of the first, or what makes a text of all."""
    absent: str = MISSING
    """Shown for a missing value."""
    where: str = ""
    """Name of a truth value: where it is false the column does not apply."""
    left: bool = False
    """Aligned like text, not like a number."""

    def text(self, row: Mapping[str, Any]) -> str:
        """What a row has in this column."""
        if self.where and row.get(self.where) is False:
            return NONE
        values = [row.get(name) for name in self.names.split()]
        if values[0] is None:
            return self.absent
        return format(values[0], self.form) if isinstance(self.form, str) else self.form(*values)


@dataclass(frozen=True)
class Section:
    """The part of a table on one data set."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    """The values by name; a row lacks those that are missing."""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """Values in tidy form, and how they are shown."""

    name: str
    title: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    across: Column | None = None
    """Heads a column for each of its texts, for the last of ``columns``; rows that agree in the others are joined."""

    @property
    def values(self) -> pd.DataFrame:
        """All sections' values, one row each."""
        rows = [row for section in self.sections for row in section.rows]
        names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
        return pd.DataFrame(rows, columns=list(names), dtype=object)

    def texts(self, section: Section) -> pd.DataFrame:
        """A section as it is read, not escaped."""
        if self.across is None:
            shown = {column.title: [column.text(row) for row in section.rows] for column in self.columns}
            return pd.DataFrame(shown, dtype=object)
        *heads, last = self.columns
        joined: dict[tuple[str, ...], dict[str, str]] = {}
        for row in section.rows:
            line = joined.setdefault(tuple(head.text(row) for head in heads), {})
            line[self.across.text(row)] = last.text(row)
        titles = list(dict.fromkeys(title for line in joined.values() for title in line))
        rows = [[*texts, *(line.get(title, "") for title in titles)] for texts, line in joined.items()]
        return pd.DataFrame(rows, columns=[*(head.title for head in heads), *titles], dtype=object)

    def left(self, texts: pd.DataFrame) -> list[bool]:
        """Which columns of a section are aligned like text."""
        left = [column.left for column in self.columns]
        return left if self.across is None else left[:-1] + [left[-1]] * (texts.shape[1] - len(left) + 1)


def markdown_table(table: Table, section: Section) -> str:
    """The rows of a section as a Markdown table."""
    texts = table.texts(section)
    ruler = ["---" if left else "---:" for left in table.left(texts)]
    lines = [[escape_markdown(str(title)) for title in texts], ruler, *texts.map(escape_markdown).to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(table: Table) -> str:
    """A table as a Markdown page."""
    parts = [f"# {table.title}\n"]
    for section in table.sections:
        heading = f"## {escape_markdown(section.title)}\n\n" if section.title != table.title else ""
        parts.append(heading + markdown_table(table, section))
        if section.notes:
            parts.append(markdown_notes(section))
    return "\n".join(parts)


def markdown_notes(section: Section) -> str:
    """The notes of a section as a list."""
    return "".join(f"- {escape_markdown(note)}\n" for note in section.notes)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
        "<": r"\textless{}", ">": r"\textgreater{}",
        "±": r"$\pm$", "≈": r"$\approx$", "−": r"$-$", "*": r"$^{*}$", DAGGER: r"\textdagger{}", ONE_RUN: r"$^{1}$",
        # A bracket at the head of a row would be the option of the line break before it.
        "[": "{[}", "]": "{]}",
    }
)  # fmt: skip


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return " ".join(text.split()).translate(_LATEX)


def latex(table: Table) -> str:
    """A table in LaTeX, one float for each section, no larger than the page."""
    parts = ["% Needs the packages booktabs and adjustbox.\n"]
    for section in table.sections:
        texts = table.texts(section).map(escape_latex)
        form = "".join("l" if left else "r" for left in table.left(texts))
        alone = section.title == table.title
        caption = table.title if alone else f"{table.title}: {section.title}"
        label = re.sub(r"[\W_]+", "-", table.name if alone else f"{table.name} {section.title}".lower()).strip("-")
        rows = texts.rename(columns=escape_latex).to_latex(index=False, column_format=form)
        parts.append(
            "\\begin{table}[htbp]\n\\centering\n"
            f"\\caption{{{escape_latex(caption)}}}\n\\label{{tab:{label}}}\n"
            "\\begin{adjustbox}{max width=\\textwidth, max totalheight=0.8\\textheight}\n"
            f"{rows}\\end{{adjustbox}}\n"
        )
        if section.notes:
            notes = escape_latex(" ".join(section.notes))
            parts[-1] += (
                f"\\par\\smallskip\n\\begin{{minipage}}{{\\textwidth}}\\footnotesize {notes}\\end{{minipage}}\n"
            )
        parts[-1] += "\\end{table}\n"
    return "\n".join(parts)


def _csv(value: Any) -> str | None:
    if pd.isna(value):
        return None
    if isinstance(value, float):
        return f"{value:.6f}"
    # A spreadsheet takes text that starts like this for a formula, and runs it.
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else str(value)


def csv(table: Table) -> str:
    """The values of a table for a machine to read; what is missing is NA."""
    return table.values.map(_csv).to_csv(index=False, na_rep="NA", lineterminator="\n")


_FORMATS: Mapping[str, Callable[[Table], str]] = {"md": markdown, "csv": csv, "tex": latex}


def write_table(table: Table, folder: Path) -> None:
    """Writes ``<name>.md``, ``<name>.csv`` and ``<name>.tex``."""
    for suffix, text in _FORMATS.items():
        write_text(folder / f"{table.name}.{suffix}", text(table))


def remove_table(name: str, folder: Path) -> None:
    """Removes what was written of a table that has nothing to show any more."""
    for suffix in _FORMATS:
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
