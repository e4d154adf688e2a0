"""Formats a question to a language model with its own chat template, or as plain text if it has none."""

from __future__ import annotations

import datetime
from typing import Any

from common.errors import InputError

_SLOT = "\ue000"
"""Stands for a text that is put in later; a character of Unicode's private use."""
_DATE = datetime.datetime(2024, 7, 26)
"""The day that templates put into a prompt, Llama's own; today would make each day's prompts others."""


class Chat:
    """What stands around a question and behind its answer.

    A plain text ends its answer with the tokenizer's end of a sequence, or with the line where it has none.

    Args:
        tokenizer: A language model's tokenizer.

    Raises:
        InputError: If its chat template cannot be used.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._plain = not tokenizer.chat_template
        end = ""
        if not self._plain:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SLOT}]
            end = self._rendered(turns, ask=False).partition(_SLOT)[2].strip()
        self.end_ids: list[int] = self.ids(end or tokenizer.eos_token or "\n")
        """Tokens behind an answer."""
        self.stops: tuple[int, ...] = tuple({self.end_ids[0], tokenizer.eos_token_id or self.end_ids[0]})
        """Tokens each of which ends an answer."""

    def ids(self, text: str) -> list[int]:
        """The token ids of a part of a prompt."""
        # What is too long is shortened by who asks, so that the tokenizer need not warn.
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def around(self, before: str, after: str) -> tuple[str, str]:
        """The prompt's text before and after a text that is asked about.

        Args:
            before: The question's text before it.
            after: The question's text after it.
        """
        if self._plain:
            return f"{self.tokenizer.bos_token or ''}{before}", f"{after}\n"
        prompt = self._rendered([{"role": "user", "content": f"{before}{_SLOT}{after}"}], ask=True)
        head, _, tail = prompt.rpartition(_SLOT)
        return head, tail

    def _rendered(self, turns: list[dict[str, str]], *, ask: bool) -> str:
        import jinja2

        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=ask,
                date_string=_DATE.strftime("%d %b %Y"),
                # What other templates call.
                strftime_now=_DATE.strftime,
            )
        except jinja2.TemplateError as error:
            raise InputError(f"the base model's chat template cannot be used: {error}") from error
        if _SLOT in turns[-1]["content"] and _SLOT not in text:
            raise InputError("the base model's chat template leaves out what is asked")
        return str(text)
