"""Servers of language models that speak OpenAI's completions API (vLLM, SGLang, llama.cpp …), over HTTP.

What is asked of them is the law of every token of a text that is given as token ids. There are two dialects:

vllm    `prompt_logprobs=k`; each choice has `prompt_logprobs`, a list with one entry a token: null for the first, else
        `{"<id>": {"logprob": -0.5, "rank": 1, "decoded_token": "…"}, …}`, the k largest and the token that is there.
        Source: vllm/entrypoints/openai/completion/{protocol,serving}.py of vLLM.
openai  `echo=true, logprobs=k`; each choice has `logprobs` with `tokens`, and `top_logprobs`, a list of null and
        `{"<token>": -0.5, …}`. Tokens are strings, which several ids may share; vLLM writes `token_id:<id>` where it is
        asked to (`return_tokens_as_token_ids`), for other servers the tokenizer says which string is which id.
"""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any

from potstill.errors import did_you_mean

PREFIX = "token_id:"
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
"""Answers that another try may mend."""
LONGEST_PAUSE = 30.0
Law = dict[int, float]
"""Log-probabilities by token."""


class Endpoint:
    """One server. `url` is its root or its `/v1`; `key` is sent as a bearer token.

    A request that fails on the way, or that a busy server turns down, is sent up to `retries` times more, after
    `pause`, twice, four times … that many seconds, or what the server asks for.

    Raises:
        ValueError: an address that is none; when asked: a server that cannot be reached or does not understand.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 120.0, retries: int = 5, pause: float = 0.5
    ):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of a server; expected e.g. http://localhost:8000/v1")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.key, self.timeout, self.retries, self.pause = key, timeout, retries, pause

    def models(self) -> list[dict[str, Any]]:
        """The models that it serves, as it describes them."""
        found = self._asked("models", None)
        listed = found.get("data") if isinstance(found, dict) else None
        if not isinstance(listed, list) or not all(isinstance(one, dict) and "id" in one for one in listed):
            raise ValueError(f"{self.url}/models answers with something else than a list of models")
        return listed

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of a completion."""
        found = self._asked("completions", body)
        choices = found.get("choices") if isinstance(found, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ValueError(f"{self.url}/completions answers without a choice")
        return choices[0]

    def _asked(self, path: str, body: Mapping[str, Any] | None) -> Any:
        address, data = f"{self.url}/{path}", None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(address, data, headers)
            wait = self.pause * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}: {_said(error)}"
                if error.code not in BUSY:
                    raise ValueError(f"{address} refuses the request, {reason}") from None
                wait = _seconds(error.headers.get("Retry-After")) or wait
            except json.JSONDecodeError as error:
                raise ValueError(f"{address} answers with something else than JSON ({error})") from None
            except (urllib.error.URLError, HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", None) or error or type(error).__name__)
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST_PAUSE))
        raise ValueError(f"{address} cannot be asked: {reason}; tried {self.retries + 1} times")


def choose(models: Sequence[Mapping[str, Any]], name: str | None, url: str) -> Mapping[str, Any]:
    """The model of that name, or the only one. Raises ValueError for another name, and for several without one."""
    names = [str(one["id"]) for one in models]
    if name is None and len(names) != 1:
        raise ValueError(f"{url} serves {len(names)} models; name one of {', '.join(names) or 'none'}")
    if name is not None and name not in names:
        raise ValueError(f"{url} serves no model {name!r}; {did_you_mean(name, names)}")
    return models[0 if name is None else names.index(name)]


def asking(dialect: str, ids: Sequence[int], k: int, strings: bool) -> dict[str, Any]:
    """What to send for the laws of all tokens of a text but the first. One token must be written: it is not used.

    `strings`: tokens may come back as strings; OpenAI's own server refuses the request for anything else.
    """
    usual = {"prompt": list(ids), "max_tokens": 1, "temperature": 0.0}
    if dialect == "vllm":
        return {**usual, "prompt_logprobs": k}
    return {**usual, "echo": True, "logprobs": k, **({} if strings else {"return_tokens_as_token_ids": True})}


def laws(
    choice: Mapping[str, Any], ids: Sequence[int], k: int, places: Sequence[int], names: Mapping[str, int]
) -> list[Law]:
    """What the server says of the tokens at these places of the text `ids`: up to `k` most probable ones each.

    `names` says which token a string is, of servers that write strings; of a string that several tokens share, or none
    has, nothing is known, and its mass is among the others'.

    Raises ValueError for fewer than `k` tokens, another text than was sent, and numbers that are no log-probabilities.
    """
    if isinstance(told := choice.get("prompt_logprobs"), list):
        read, tokens, names = told, None, {}
    elif isinstance(told := choice.get("logprobs"), dict) and isinstance(told.get("top_logprobs"), list):
        read, tokens = told["top_logprobs"], told.get("tokens")
    else:
        raise ValueError(
            "the server gives no log-probabilities of the prompt (neither prompt_logprobs nor logprobs.top_logprobs); "
            "try the other dialect (vllm, openai), or a server that knows one of them"
        )
    if len(read) < len(ids) or (isinstance(tokens, list) and len(tokens) < len(ids)):
        raise ValueError(f"the server speaks of {len(read)} tokens, and {len(ids)} were sent: it reads another text")
    entries = [read[place] if isinstance(read[place], dict) else {} for place in places]
    # Two tokens that are written alike are one entry, so that of strings some tokens may have fewer.
    known = (max if names else min)(map(len, entries), default=k)
    if known < k:
        raise ValueError(
            f"the server gives {known} log-probabilities of a token, and {k} are asked for; ask for fewer, or raise "
            f"its limit (vLLM: --max-logprobs {k})"
        )
    found = []
    for place, some in zip(places, entries, strict=True):
        law = _law(some, names)
        _check_text(ids[place], law, tokens[place] if isinstance(tokens, list) else None, names, place)
        found.append(dict(sorted(law.items(), key=lambda item: (-item[1], item[0]))[:k]))
    return found


def _law(entries: Mapping[str, Any], names: Mapping[str, int]) -> Law:
    law: Law = {}
    for written, value in entries.items():
        number = value.get("logprob") if isinstance(value, dict) else value
        if not isinstance(number, int | float) or math.isnan(number) or number > 0.01:
            raise ValueError(f"the server gives the token {written!r} the log-probability {number!r}")
        token = _token(written, names)
        if token is not None:
            law[token] = float(number)
    return law


def _token(written: str, names: Mapping[str, int]) -> int | None:
    bare = written.removeprefix(PREFIX)
    is_id = bare.isascii() and bare.isdigit() and (not names or bare != written)
    return int(bare) if is_id else names.get(written)


def _check_text(ours: int, law: Law, theirs: Any, names: Mapping[str, int], place: int) -> None:
    """The token that is there is always among those that are named, or is written beside them."""
    if isinstance(theirs, str):
        read = _token(theirs, names)
        same = read == ours if read is not None else bool(names)
    else:
        read, same = None, ours in law
    if not same:
        raise ValueError(
            f"the server reads another token than was sent at place {place}: {ours} was sent, "
            f"{'it is not among those named' if theirs is None else f'{theirs!r} came back'}; is its tokenizer the "
            "same?" + ("" if names or theirs is None else " (give the tokenizer where tokens come back as strings)")
        )


def _said(error: urllib.error.HTTPError) -> str:
    """What the server has to say, in one line."""
    try:
        text = error.read().decode(errors="replace")
        found: Any = json.loads(text)
        found = found.get("error", found) if isinstance(found, dict) else found
        text = str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except (OSError, ValueError, HTTPException):
        text = error.reason if isinstance(error.reason, str) else ""
    return " ".join(text.split())[:300] or "it does not say why"


def _seconds(written: str | None) -> float | None:
    try:
        return max(0.0, float(written or ""))
    except ValueError:
        return None
