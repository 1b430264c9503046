"""One vocabulary or two, and logits that are no tokens."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from potstill.language.vocabulary import common_vocabulary, narrowed, real, same_tokenizer
from potstill.lazy import weighted_sum
from potstill.objectives import JSD, ForwardKL, ReverseKL
from potstill.types import LazyLogits

TEXTS = ["the cat sat on the mat", "12 345 and 6,789", "über café 你好"] * 20


def byte_level(size, specials=("<eos>",), template=None):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", chat_template=template)


def test_one_tokenizer_is_one_whatever_ends_its_texts():
    one, other = byte_level(280, ("<eos>", "<end>")), byte_level(280, ("<eos>", "<end>"))
    other.eos_token = "<end>"
    assert same_tokenizer(one, other) is None
    assert common_vocabulary(one, other) == real(one) == len(one) == 280


def test_the_first_difference_is_named():
    plain = byte_level(280)
    digits = byte_level(280)
    single = pre_tokenizers.Digits(individual_digits=True)
    digits.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single, plain.backend_tokenizer.pre_tokenizer])
    assert "12 123" in same_tokenizer(plain, digits).what
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    marked = byte_level(280, ("<eos>",), template=template)
    marked.add_tokens(["<|user|>"])
    assert same_tokenizer(plain, marked).what.startswith("'<|user|>What is")
    longer = byte_level(280)
    longer.add_tokens(["<tool>"])
    assert str(same_tokenizer(longer, plain)) == "'<tool>' is token 280 to the student's and no token to the teacher's"
    with pytest.raises(ValueError, match=r"different tokenizers: .*gold compares .*uld sorted"):
        common_vocabulary(plain, digits)


@pytest.mark.parametrize("objective", [ForwardKL(), ReverseKL(), JSD(0.3)], ids=lambda o: type(o).__name__)
def test_surplus_columns_count_for_nothing(objective):
    """Two padded widths, one vocabulary: as with -inf in the columns beyond, in value and gradient."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, n, generator=generator, dtype=torch.float64) for n in (9, 12))
    masked = torch.cat([student, student[..., :3]], -1)
    masked[..., 7:] = -torch.inf
    far = torch.where(torch.arange(12) < 7, teacher, -torch.inf)
    student, masked = student.requires_grad_(), masked.requires_grad_()
    found = objective(narrowed(student, 7), narrowed(teacher, 7))
    expected = objective(masked, far)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(student.grad[..., :7], masked.grad[..., :7], rtol=1e-12, atol=1e-14)
    assert not student.grad[..., 7:].any()


def test_a_tied_head_that_is_narrowed_is_a_view_with_the_right_gradient():
    """The embedding gets its gradient from both of its uses, rows of no token from none."""
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(9, 4, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64)
    ids = torch.tensor([[0, 3, 6], [5, 5, 1]])

    def losses():
        lazy = narrowed(LazyLogits(embedding[ids].tanh(), embedding, bias), 7)
        assert lazy.weight.data_ptr() == embedding.data_ptr()
        yield weighted_sum(ForwardKL(), lazy, narrowed(teacher, 7), torch.full((2, 3), 1 / 6, dtype=torch.float64), {})
        dense = LazyLogits(embedding[ids].tanh(), embedding, bias).dense()
        far = torch.where(torch.arange(9) < 7, dense, -torch.inf)
        yield ForwardKL()(far, torch.cat([teacher[..., :7], torch.full((2, 3, 2), -torch.inf)], -1)).mean()

    found, expected = ((loss, *torch.autograd.grad(loss, (embedding, bias))) for loss in losses())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert not found[1][7:].any()


def test_a_network_with_fewer_logits_than_tokens():
    with pytest.raises(ValueError, match=r"answers with 5 logits, and its tokenizer has 7 tokens"):
        narrowed(torch.zeros(1, 5), 7)
    whole = torch.zeros(1, 5)
    assert narrowed(whole, None) is narrowed(whole, 5) is whole
