"""A teacher behind an HTTP endpoint: a small local server answers from a real network, in vLLM's and OpenAI's way."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from bpe import SENTENCES, bpe
from causal_networks import causal

from potstill.cli import main
from potstill.language.cached import CachedTexts
from potstill.language.encode import encode
from potstill.language.loader import batch_of
from potstill.language.served import Served
from potstill.language.signals import Signals, capture
from potstill.language.texts import Texts
from potstill.largest import top_logits
from potstill.sources import Network
from potstill.tasks.language import Language
from potstill.types import MAIN

TOKENIZER = bpe()
VOCABULARY = len(TOKENIZER)
TASK = Language(vocabulary=VOCABULARY)
MODEL = causal("llama", vocab_size=VOCABULARY, max_position_embeddings=128)
TEACHER = Network(MODEL, trained=False)


class Handler(BaseHTTPRequestHandler):
    """Both dialects, as vllm/entrypoints/openai/completion/serving.py writes them."""

    def log_message(self, *_):
        pass

    def answer(self, status, found, **headers):
        body = json.dumps(found).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        assert self.path == "/v1/models"
        self.answer(200, {"object": "list", "data": [{"id": "tiny", "root": "org/tiny"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.seen.append((dict(self.headers), asked))
        if server.turned_down:
            server.turned_down -= 1
            return self.answer(503, {"error": {"message": "busy"}}, Retry_After="0")
        k = asked.get("prompt_logprobs") or asked["logprobs"]
        if k > server.limit:
            message = f"Requested prompt logprobs of {k}, which is greater than max allowed: {server.limit}"
            return self.answer(400, {"error": {"message": message, "code": 400}})
        ids = server.reads(asked["prompt"])
        with torch.no_grad():
            laws = MODEL(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
        said = [None]
        for before, token in enumerate(ids[1:]):
            best = laws[before].topk(min(k, server.gives)).indices.tolist()
            said.append({one: laws[before, one].item() for one in dict.fromkeys([token, *best])})
        if "prompt_logprobs" in asked:
            choice = {
                "prompt_logprobs": [
                    one and {str(t): {"logprob": p, "rank": 1, "decoded_token": "?"} for t, p in one.items()}
                    for one in said
                ]
            }
        else:
            by_id = asked.get("return_tokens_as_token_ids")
            names = [f"token_id:{t}" if by_id else TOKENIZER.decode([t]) for t in range(VOCABULARY)]
            top = [one and {names[t]: p for t, p in one.items()} for one in said]
            # The token that max_tokens=1 asks for stands at the end.
            written = {"tokens": [*(names[t] for t in ids), "x"], "top_logprobs": [*top, {"x": -1.0}]}
            choice = {"logprobs": written}
        return self.answer(200, {"choices": [{"index": 0, "text": "", **choice}]})


@pytest.fixture
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.seen, running.turned_down, running.limit, running.gives, running.reads = [], 0, 1000, 1000, list
    running.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(scope="module")
def encoded():
    prompts = [" ".join(SENTENCES[n : n + 1 + n % 3]) + "\n" for n in range(6)]
    return encode(Texts(prompts, list(SENTENCES[6:12]), [[]] * 6, "mine", "train", np.arange(6), str), TOKENIZER)


def asked(server, k=7, **options):
    return Served(server.url, k=k, vocabulary=VOCABULARY, **{"pause": 0.0, "retries": 2} | options)


def live(batch, k=7):
    with torch.no_grad():
        return top_logits(TEACHER(TASK, batch, MAIN, ()).dense(), k)


@pytest.mark.parametrize("dialect", ["vllm", "openai"])
def test_the_served_teacher_says_what_the_live_one_says(dialect, server, encoded):
    batch = batch_of(encoded, np.array([4, 1, 5]))
    source = asked(server, dialect=dialect, key="secret")
    said, mask = source(TASK, batch, MAIN, ()).output, batch.main.mask
    assert source.module is None
    torch.testing.assert_close(said.log_probs[mask], live(batch).log_probs[mask], rtol=1e-4, atol=1e-5)
    assert torch.equal(said.indices[mask], live(batch).indices[mask])
    said.check()
    headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "tiny"
    assert sorted(body["prompt"] for _, body in server.seen) == sorted(
        encoded.tokens[encoded.offsets[row] : encoded.offsets[row + 1]].tolist() for row in (4, 1, 5)
    )


def test_tokens_that_come_back_as_strings(server, encoded):
    """A string that several tokens are written as tells nothing: its mass is among the others'."""
    batch = batch_of(encoded, np.arange(3))
    source = asked(server, dialect="openai", tokenizer=TOKENIZER)
    said, mask = source(TASK, batch, MAIN, ()).output, batch.main.mask
    assert "return_tokens_as_token_ids" not in server.seen[0][1]
    whole = torch.full((*mask.shape, VOCABULARY + 1), -torch.inf)
    dense = live(batch, VOCABULARY)
    laws = whole.scatter(-1, dense.indices, dense.log_probs)
    known = (said.indices >= 0) & mask[..., None]
    torch.testing.assert_close(said.log_probs[known], laws.gather(-1, said.indices.clamp(min=0))[known])
    assert 0.3 < known[mask].float().mean() < 1


def test_captured_into_a_cache(server, encoded, tmp_path):
    signals = Signals(k=7, budget=100)
    source = asked(server)
    about = capture(source, TASK, encoded, tmp_path / "c", signals, tokenizer="bpe")
    assert (about.served, about.teacher) == ("tiny", source.fingerprint)
    batch = batch_of(encoded, np.array([2, 5]))
    said, mask = CachedTexts(tmp_path / "c", encoded)(TASK, batch, MAIN, ()).output, batch.main.mask
    torch.testing.assert_close(said.log_probs[mask], live(batch).log_probs[mask], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"no last layer is known .* or is only served"):
        capture(source, TASK, encoded, tmp_path / "d", Signals(), tokenizer="bpe")
    with pytest.raises(ValueError, match="knows 7 tokens at temperature 1, and 7 at 2 are to be kept"):
        capture(source, TASK, encoded, tmp_path / "e", Signals(k=7, temperature=2.0), tokenizer="bpe")


def test_a_busy_server_is_asked_again(server, encoded):
    server.turned_down = 2
    batch = batch_of(encoded, np.arange(1))
    said = asked(server)(TASK, batch, MAIN, ()).output
    assert len(server.seen) == 3
    assert torch.equal(said.indices[batch.main.mask], live(batch).indices[batch.main.mask])
    server.turned_down = 99
    with pytest.raises(ValueError, match=r"completions cannot be asked: status 503: busy; tried 3 times"):
        asked(server)(TASK, batch, MAIN, ())


def test_what_goes_wrong_is_said(server, encoded):
    batch = batch_of(encoded, np.arange(2))
    with pytest.raises(ValueError, match=r"serves no model 'tinny'; did you mean 'tiny'\?"):
        asked(server, model="tinny")
    with pytest.raises(ValueError, match=r"127.0.0.1:9/v1/models cannot be asked: .*refused.*; tried 2 times"):
        Served("http://127.0.0.1:9", vocabulary=VOCABULARY, retries=1, pause=0.0)
    with pytest.raises(ValueError, match="'localhost:8000' is no address of a server"):
        Served("localhost:8000", vocabulary=VOCABULARY)
    server.limit = 5
    with pytest.raises(ValueError, match="refuses the request, status 400: Requested prompt logprobs of 7"):
        asked(server)(TASK, batch, MAIN, ())
    server.limit, server.gives = 1000, 4
    with pytest.raises(ValueError, match=r"gives [45] log-probabilities of a token, and 7 are asked for"):
        asked(server)(TASK, batch, MAIN, ())
    server.gives, server.reads = 1000, lambda ids: [(token + 1) % VOCABULARY for token in ids]
    for dialect in ("vllm", "openai"):
        with pytest.raises(ValueError, match=r"reads another token than was sent at place \d+: .* tokenizer the same"):
            asked(server, dialect=dialect, k=2)(TASK, batch, MAIN, ())
    server.reads = lambda ids: ids[:-1]
    with pytest.raises(ValueError, match=r"speaks of \d+ tokens, and \d+ were sent"):
        asked(server)(TASK, batch, MAIN, ())


RECIPE = """\
from pathlib import Path
from potstill import Fit
from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text

def recipe(smoke=False):
    return LanguageRecipe(
        data=Text(root=Path("mine.jsonl")),
        student=LanguageModel(layers=1, width=16, heads=2),
        tokenizer="./tokenizer",
        methods=("forward_kl",),
        fit=Fit(epochs=1, batch_size=8),
        judged=0,
    )
"""


def test_from_the_command_line(server, tmp_path, monkeypatch, capsys):
    """The student of a server's teacher: nobody has its weights here, so nothing but its tokenizer is compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("potstill.language.comparison.write_report", lambda folder: None)
    TOKENIZER.save_pretrained("tokenizer")
    (tmp_path / "mine.py").write_text(RECIPE)
    lines = [{"prompt": f"{SENTENCES[n]}\n", "response": SENTENCES[n + 1]} for n in range(30)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--top-k", "9", "--out", "c", "--quiet"]
    assert main(["cache", "mine.py", "--served", server.url, *words]) == 0
    usual = ["--teacher.cache", "c", "--quiet", "--precision", "float32", "--out"]
    assert main(["distill", "mine.py", *usual, "run"]) == 0
    teacher = json.loads((tmp_path / "run" / "summary.json").read_text())["teacher"]
    assert (teacher["model"], teacher["cache"]) == ("tiny", "c")
    assert main(["distill", "mine.py", *usual, "again", "--student", "teacher"]) == 1
    assert "it is made from the teacher, and there is none" in capsys.readouterr().err
