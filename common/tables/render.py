"""Documents as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.files import write_text
from common.tables.runs import (
    DAGGER,
)


@dataclass(frozen=True)
class Section:
    """A table as it is read."""

    title: str
    rows: pd.DataFrame
    """Texts."""
    n_text: int
    """The first columns that are text; the others are aligned like numbers."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """The sections of one kind, one for each data set, and their values for a machine to read."""

    name: str
    title: str
    sections: tuple[Section, ...]
    values: pd.DataFrame


def markdown_table(section: Section) -> str:
    """The rows of a section as a Markdown table."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"

    n_numbers = section.rows.shape[1] - section.n_text
    ruler = "|" + " --- |" * section.n_text + " ---: |" * n_numbers + "\n"
    return line(section.rows.columns) + ruler + "".join(line(row) for row in section.rows.itertuples(index=False))


def markdown(document: Document) -> str:
    """A document as a Markdown page."""
    parts = [f"# {document.title}\n"]
    for section in document.sections:
        heading = f"## {section.title}\n\n" if section.title != document.title else ""
        parts.append(heading + markdown_table(section))
        if section.notes:
            parts.append("".join(f"- {note}\n" for note in section.notes))
    return "\n".join(parts)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "±": r"$\pm$", "≈": r"$\approx$", "−": r"$-$", "*": r"$^{*}$", DAGGER: r"\textdagger{}",
    }
)  # fmt: skip


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return text.translate(_LATEX)


def latex(document: Document) -> str:
    """A document as LaTeX tables, one for each section, no larger than the page."""
    parts = ["% Needs the packages booktabs and adjustbox.\n"]
    for section in document.sections:
        alone = section.title == document.title
        words = document.name if alone else f"{document.name} {section.title}".lower()
        name = "-".join("".join(c if c.isalnum() else " " for c in words).split())
        numbers = section.rows.shape[1] - section.n_text
        caption = document.title if alone else f"{document.title}: {section.title}"
        lines = [
            r"\begin{table}[htbp]",
            r"  \centering",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{tab:{name}}}",
            r"  \begin{adjustbox}{max width=\textwidth, max totalheight=0.8\textheight}",
            rf"  \begin{{tabular}}{{{'l' * section.n_text}{'r' * numbers}}}",
            r"    \toprule",
            f"    {_latex_line(section.rows.columns)}",
            r"    \midrule",
            *(f"    {_latex_line(row)}" for row in section.rows.itertuples(index=False)),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"  \end{adjustbox}",
        ]
        if section.notes:
            notes = escape_latex(" ".join(section.notes))
            lines += [r"  \par\smallskip", rf"  \begin{{minipage}}{{\textwidth}}\footnotesize {notes}\end{{minipage}}"]
        parts.append("\n".join([*lines, r"\end{table}"]) + "\n")
    return "\n".join(parts)


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def write_document(document: Document, folder: Path) -> None:
    """Writes ``<name>.md``, ``<name>.csv`` and ``<name>.tex``; what is missing is NA in the CSV file."""
    texts = {
        "md": markdown(document),
        "csv": document.values.to_csv(index=False, na_rep="NA", float_format="%.6f", lineterminator="\n"),
        "tex": latex(document),
    }
    for suffix, text in texts.items():
        write_text(folder / f"{document.name}.{suffix}", text)
